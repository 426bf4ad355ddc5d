// Package check inspects a host for what RFO needs and says what to do about each difference.
//
// It judges and never repairs. A probe that cannot see what it looks for reports that as a warning: absence of evidence is
// neither a pass nor a failure.
package check

import (
	"encoding"
	"fmt"
)

// Status orders findings by how much they matter.
type Status int

// The exit code of check-config follows the worst of these: OK and Info 0, Warn 1, Fail 2.
const (
	OK   Status = iota // as RFO wants it
	Info               // worth knowing, needs no action
	Warn               // RFO runs, but something will not work or could not be seen
	Fail               // RFO cannot run like this
)

var statusNames = [...]string{"ok", "info", "warn", "fail"}

var _ encoding.TextMarshaler = OK

func (s Status) String() string { return statusNames[s] }

// MarshalText makes JSON carry the word, since the numbers are not part of any contract.
func (s Status) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// ExitCode is what a script sees.
func (s Status) ExitCode() int { return max(0, int(s)-int(Info)) }

// Finding is one fact about the host with its judgement. ID is GROUP.NAME and never changes its meaning.
type Finding struct {
	ID       string `json:"id"`
	Group    string `json:"group"`
	Status   Status `json:"status"`
	Found    string `json:"found"`
	Expected string `json:"expected"`
	Remedy   string `json:"remedy"` // a command to type or a line to write; empty when there is nothing to do
}

// Schema names the JSON form of Report. Fields may be added under one name; a change of meaning takes a new one.
const Schema = "rfo.check-config/v1"

// Report is the stable JSON object that `rfo check-config --json` prints.
type Report struct {
	Schema   string         `json:"schema"`
	Version  string         `json:"version"` // of the rfo that looked
	Role     Role           `json:"role"`
	DataDir  string         `json:"dataDir"`
	Root     string         `json:"root"`
	Status   Status         `json:"status"` // the worst of all
	Summary  map[string]int `json:"summary"`
	Findings []Finding      `json:"findings"`
}

// Role is what the host is to become. A server also does an agent's work.
type Role string

// The two roles of a node.
const (
	Server Role = "server"
	Agent  Role = "agent"
)

// ParseRole accepts exactly the two words.
func ParseRole(s string) (Role, error) {
	switch role := Role(s); role {
	case Server, Agent:
		return role, nil
	}
	return "", fmt.Errorf("role %q: want %q or %q", s, Server, Agent)
}
