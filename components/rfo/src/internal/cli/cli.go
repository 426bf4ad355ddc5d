// Package cli is the command line of rfo: it parses, makes one call and prints.
package cli

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/rfolabs/rfo/internal/version"
)

// Exit codes. Those above 2 follow <sysexits.h>. check-config also returns 1 for warnings and 2 for failures.
const (
	exitOK          = 0
	exitUnknown     = 2  // no such command
	exitUsage       = 64 // a command was given what it does not understand
	exitUnavailable = 69 // the command exists in RFO, but not in this build
	exitIO          = 74 // the output could not be written
)

// Env is all that a command sees of the process.
type Env struct {
	Stdout, Stderr io.Writer
	Colour         bool   // standard output is a person's terminal
	Hostroot       string // where the host's file system is
}

// command is one verb of rfo.
type command struct {
	name, summary, help string
	run                 func(env Env, args []string) int
}

// commands are listed in the order of the help. A function, since help refers to it.
func commands() []command {
	return []command{
		{"server", "run this node as a server: control plane, etcd and pods", serverHelp, absent("server")},
		{"agent", "run this node as an agent: pods only", agentHelp, absent("agent")},
		{"check-config", "say whether this host is ready for RFO, and what to change", checkHelp, checkConfig},
		{"version", "print the version", versionHelp, printVersion},
		{"help", "explain a command", "Usage: rfo help [COMMAND]\n", help},
	}
}

const usage = `rfo runs Kubernetes on this host: RFO, a distribution for openEuler.

Usage: rfo COMMAND [OPTIONS]

Commands:
%s
Start here:
  rfo check-config                   is this host ready to become a server?
  rfo check-config --role agent      … or an agent?
  systemctl enable --now rfo-server  start it, now and at each boot

Files:
  /etc/rancher/rfo/config.yaml       configuration, one option per key
  /etc/rancher/rfo/rfo.yaml          kubeconfig of a server
  /var/lib/rancher/rfo               data; node programs are in its bin/

Exit codes: 2 unknown command, 64 wrong usage, 69 not in this build, 74 output failed; a command's help names its own.
"rfo help COMMAND" explains one command.
`

// Main runs one command line and returns the exit code.
func Main(env Env, args []string) int {
	if len(args) == 0 {
		return help(env, nil)
	}
	name, rest := args[0], args[1:]
	switch name {
	case "-h", "--help", "-help":
		return help(env, nil)
	case "-v", "--version", "-version":
		return printVersion(env, nil)
	}
	c, ok := find(name)
	if !ok {
		return unknown(env, name)
	}
	for _, arg := range rest {
		if arg == "-h" || arg == "--help" || arg == "-help" {
			return write(env, c.help)
		}
	}
	return c.run(env, rest)
}

func find(name string) (command, bool) {
	for _, c := range commands() {
		if c.name == name {
			return c, true
		}
	}
	return command{}, false
}

func unknown(env Env, name string) int {
	fmt.Fprintf(env.Stderr, "rfo: unknown command %q\n", name)
	if near := nearest(name); near != "" {
		fmt.Fprintf(env.Stderr, "Did you mean \"rfo %s\"?\n", near)
	}
	fmt.Fprintln(env.Stderr, `"rfo --help" lists all commands.`)
	return exitUnknown
}

func usageError(env Env, name, message string) int {
	fmt.Fprintf(env.Stderr, "rfo %s: %s\n\"rfo %s --help\" explains its options.\n", name, message, name)
	return exitUsage
}

// write prints and notices a full disk or a closed pipe, so that nobody takes half an answer for a whole one.
func write(env Env, text string) int {
	if _, err := io.WriteString(env.Stdout, text); err != nil {
		fmt.Fprintf(env.Stderr, "rfo: cannot write the output: %v\n", err)
		return exitIO
	}
	return exitOK
}

func help(env Env, args []string) int {
	if len(args) > 1 {
		return usageError(env, "help", "explains one command at a time")
	}
	if len(args) == 1 {
		c, ok := find(args[0])
		if !ok {
			return unknown(env, args[0])
		}
		return write(env, c.help)
	}
	var list strings.Builder
	for _, c := range commands() {
		fmt.Fprintf(&list, "  %-14s%s\n", c.name, c.summary)
	}
	return write(env, fmt.Sprintf(usage, list.String()))
}

const versionHelp = `Usage: rfo version

Prints "rfo version VERSION (GO, OS/ARCH)" and, in a second line, "base NAME": the operating system content that the
release was made on. A build that no release stamped calls itself "dev" and names no base.
`

func printVersion(env Env, args []string) int {
	if len(args) > 0 {
		return usageError(env, "version", "takes no arguments")
	}
	return write(env, version.String()+"\n")
}

// WantsColour follows no-color.org: colour only for a terminal, and not if NO_COLOR has any value.
func WantsColour(stdout *os.File, getenv func(string) string) bool {
	info, err := stdout.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && getenv("NO_COLOR") == "" && getenv("TERM") != "dumb"
}
