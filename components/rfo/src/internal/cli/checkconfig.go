package cli

import (
	"flag"
	"io"
	"os"
	"path"
	"path/filepath"

	"github.com/rfolabs/rfo/internal/check"
	"github.com/rfolabs/rfo/internal/host"
)

const checkHelp = `Usage: rfo check-config [--role server|agent] [--data-dir DIR] [--json] [--root DIR]

Looks at this host and says what RFO needs, what it found, and how to change what differs. It opens files for reading
and nothing else: it runs no program, opens no socket and changes nothing. Run it as root to see which process holds a
port.

Options:
  --role ROLE     what the host shall become: server (default) or agent, which needs fewer ports
  --data-dir DIR  where RFO's data shall be (default /var/lib/rancher/rfo); its file system is examined
  --json          print one JSON object instead of a table
  --root DIR      examine the file system mounted at DIR instead of this host's, such as a disk image

Exit codes:
  0   ready; there may be notes (info)
  1   at least one warning: RFO runs, but something will not work or could not be seen
  2   at least one failure: RFO cannot run like this
  64  wrong usage
  74  the report could not be written

JSON: {"schema": "rfo.check-config/v1", "version", "role", "dataDir", "root", "status",
       "summary": {"ok": N, "info": N, "warn": N, "fail": N},
       "findings": [{"id", "group", "status", "found", "expected", "remedy"}]}
An id never changes its meaning. Fields may be added; a change of meaning takes a new schema name.

Examples:
  rfo check-config --role agent
  rfo check-config --json | jq -r '.findings[] | select(.status == "fail") | .remedy'
`

func checkConfig(env Env, args []string) int {
	const name = "check-config"
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(io.Discard) // its messages are worded here
	roleText := flags.String("role", string(check.Server), "")
	dataDir := flags.String("data-dir", "/var/lib/rancher/rfo", "")
	asJSON := flags.Bool("json", false, "")
	root := flags.String("root", env.Hostroot, "")
	if err := flags.Parse(args); err != nil {
		return usageError(env, name, err.Error())
	}
	if flags.NArg() > 0 {
		return usageError(env, name, "unexpected argument \""+flags.Arg(0)+"\"")
	}
	role, err := check.ParseRole(*roleText)
	if err != nil {
		return usageError(env, name, err.Error())
	}
	if !path.IsAbs(*dataDir) {
		return usageError(env, name, "--data-dir \""+*dataDir+"\": want an absolute path")
	}
	if info, err := os.Stat(*root); err != nil || !info.IsDir() {
		return usageError(env, name, "--root \""+*root+"\": not a directory")
	}
	report := check.Run(host.New(filepath.Clean(*root)), check.Options{Role: role, DataDir: path.Clean(*dataDir)})
	text := report.Table(env.Colour)
	if *asJSON {
		text = report.JSON()
	}
	if code := write(env, text); code != exitOK {
		return code
	}
	return report.Status.ExitCode()
}
