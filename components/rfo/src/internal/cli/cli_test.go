package cli

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
)

// run gives a command an empty host, on which check-config finds failures.
func run(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err strings.Builder
	code = Main(Env{Stdout: &out, Stderr: &err, Hostroot: t.TempDir()}, args)
	return code, out.String(), err.String()
}

func TestCommandLines(t *testing.T) {
	for _, c := range []struct {
		args           string
		code           int
		stdout, stderr string // parts
	}{
		{"", 0, "Usage: rfo COMMAND", ""},
		{"--help", 0, "check-config", ""},
		{"-h", 0, "Usage: rfo COMMAND", ""},
		{"help", 0, "Usage: rfo COMMAND", ""},
		{"help check-config", 0, "Exit codes:", ""},
		{"help check-confg", 2, "", `Did you mean "rfo check-config"?`},
		{"help server agent", 64, "", "one command"},
		{"version", 0, "rfo version dev (go1.", ""},
		{"--version", 0, "rfo version dev (go1.", ""},
		{"version now", 64, "", "no arguments"},
		{"server", 69, "", "does not contain the supervisor"},
		{"agent --server x", 69, "", "--role agent"},
		{"server --help", 0, "9345", ""},
		{"agent -h", 0, "token:", ""},
		{"sevrer", 2, "", `Did you mean "rfo server"?`},
		{"frobnicate", 2, "", `unknown command "frobnicate"`},
		{"--frob", 2, "", "unknown command"},
		{"check-config --help", 0, "Usage: rfo check-config", ""},
		{"check-config", 2, "cannot run rfo server yet", ""},
		{"check-config --role agent", 2, "cannot run rfo agent yet", ""},
		{"check-config --role master", 64, "", `role "master": want "server" or "agent"`},
		{"check-config --data-dir rel", 64, "", "absolute"},
		{"check-config --root /nonexistent", 64, "", "not a directory"},
		{"check-config --frob", 64, "", "not defined: -frob"},
		{"check-config extra", 64, "", `unexpected argument "extra"`},
	} {
		code, stdout, stderr := run(t, strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(stdout, c.stdout) || !strings.Contains(stderr, c.stderr) {
			t.Errorf("rfo %s: got %d\n%s\n%s", c.args, code, stdout, stderr)
		}
		if (c.stderr == "") != (stderr == "") || (c.stdout == "") != (stdout == "") {
			t.Errorf("rfo %s: wrote to the wrong stream: %q, %q", c.args, stdout, stderr)
		}
	}
}

func TestUnknownCommandWithoutNeighbour(t *testing.T) {
	if _, _, stderr := run(t, "frobnicate"); strings.Contains(stderr, "Did you mean") {
		t.Error(stderr)
	}
}

func TestJSONOutput(t *testing.T) {
	code, stdout, _ := run(t, "check-config", "--json", "--data-dir", "/srv//rfo/", "--role=agent")
	var report struct{ Schema, Role, DataDir, Status string }
	if err := json.Unmarshal([]byte(stdout), &report); err != nil {
		t.Fatal(err)
	}
	if code != 2 || report.Schema != "rfo.check-config/v1" || report.Role != "agent" || report.DataDir != "/srv/rfo" || report.Status != "fail" {
		t.Errorf("got %d, %+v", code, report)
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

func TestLostOutputIsAnError(t *testing.T) {
	for _, args := range [][]string{{"version"}, {"help"}, {"check-config"}} {
		var stderr strings.Builder
		if code := Main(Env{Stdout: full{}, Stderr: &stderr, Hostroot: t.TempDir()}, args); code != exitIO {
			t.Errorf("%v: got %d", args, code)
		}
	}
}

func TestColour(t *testing.T) {
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	unset := func(string) string { return "" }
	if WantsColour(file, unset) {
		t.Error("colour in a file")
	}
	terminal, err := os.Open(os.DevNull) // a character device, as a terminal is
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	if !WantsColour(terminal, unset) {
		t.Error("no colour on a terminal")
	}
	if WantsColour(terminal, func(name string) string { return map[string]string{"NO_COLOR": "1"}[name] }) {
		t.Error("colour in spite of NO_COLOR")
	}
}

func TestEdits(t *testing.T) {
	for pair, want := range map[[2]string]int{{"", "abc"}: 3, {"abc", "abc"}: 0, {"sevrer", "server"}: 2, {"agnt", "agent"}: 1} {
		if got := edits(pair[0], pair[1]); got != want {
			t.Errorf("%v: got %d, want %d", pair, got, want)
		}
	}
}
