package check

import (
	"encoding/json"
	"fmt"
	"strings"
)

// JSON is the report as one indented object.
func (r Report) JSON() string {
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false) // a remedy with && shall stay one to paste
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(r); err != nil {
		panic(err) // strings and numbers only: it cannot fail
	}
	return b.String()
}

var colours = map[Status]string{OK: "32", Info: "36", Warn: "33", Fail: "1;31"}

// Table shows findings by group, with expectation and remedy where there is something to do.
func (r Report) Table(colour bool) string {
	width := 0
	for _, f := range r.Findings {
		width = max(width, len(f.ID))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "rfo %s check-config: role %s, data directory %s\n", r.Version, r.Role, r.DataDir)
	group := ""
	for _, f := range r.Findings {
		if f.Group != group {
			group = f.Group
			fmt.Fprintf(&b, "\n%s\n", strings.ToUpper(group))
		}
		fmt.Fprintf(&b, "  %s  %-*s  %s\n", paint(f.Status, colour), width, f.ID, f.Found)
		indent := strings.Repeat(" ", width+10)
		if f.Status >= Warn {
			fmt.Fprintf(&b, "%sexpected: %s\n", indent, f.Expected)
		}
		if f.Remedy != "" {
			fmt.Fprintf(&b, "%sremedy:   %s\n", indent, f.Remedy)
		}
	}
	fmt.Fprintf(&b, "\n%s\n", r.summary())
	return b.String()
}

func paint(s Status, colour bool) string {
	word := fmt.Sprintf("%-4s", s)
	if !colour {
		return word
	}
	return "\x1b[" + colours[s] + "m" + word + "\x1b[0m"
}

func (r Report) summary() string {
	verdict := "this host is ready for rfo " + string(r.Role)
	switch r.Status {
	case Warn:
		verdict = "this host can run rfo " + string(r.Role) + "; read the warnings first"
	case Fail:
		verdict = "this host cannot run rfo " + string(r.Role) + " yet"
	}
	return fmt.Sprintf("%d ok, %d info, %d warn, %d fail: %s",
		r.Summary["ok"], r.Summary["info"], r.Summary["warn"], r.Summary["fail"], verdict)
}
