package check

import (
	"errors"
	"io/fs"
	"strings"
	"unicode"

	"github.com/rfolabs/rfo/internal/host"
	"github.com/rfolabs/rfo/internal/version"
)

// Options say what the host is wanted for.
type Options struct {
	Role    Role
	DataDir string
}

// probes run in this order, which is the order of the report.
var probes = []struct {
	group string
	run   func(*inspection)
}{
	{"system", inspectSystem},
	{"kernel", inspectKernel},
	{"cgroup", inspectCgroups},
	{"resources", inspectResources},
	{"clock", inspectClock},
	{"name", inspectName},
	{"network", inspectNetwork},
	{"ports", inspectPorts},
	{"dns", inspectDNS},
	{"sysctl", inspectSysctls},
}

// Run looks at the host and reports.
func Run(h host.Host, options Options) Report {
	report := Report{
		Schema: Schema, Version: version.Version, Role: options.Role, DataDir: options.DataDir, Root: h.Root,
		Summary: map[string]int{}, Findings: []Finding{},
	}
	for _, name := range statusNames {
		report.Summary[name] = 0
	}
	for _, probe := range probes {
		in := inspection{Host: h, Options: options, group: probe.group}
		probe.run(&in)
		report.Findings = append(report.Findings, in.findings...)
	}
	for _, finding := range report.Findings {
		report.Summary[finding.Status.String()]++
		report.Status = max(report.Status, finding.Status)
	}
	return report
}

// inspection is one probe at work.
type inspection struct {
	host.Host
	Options
	group    string
	findings []Finding
}

// expectation is a finding that waits for its verdict.
type expectation struct {
	in           *inspection
	id, expected string
}

// want starts a finding: what is looked at and what would be right.
func (in *inspection) want(id, expected string) expectation { return expectation{in, id, expected} }

func (e expectation) verdict(status Status, found, remedy string) {
	e.in.findings = append(e.in.findings, Finding{
		ID: e.in.group + "." + e.id, Group: e.in.group, Status: status,
		Found: printable(found), Expected: e.expected, Remedy: printable(remedy),
	})
}

func (e expectation) ok(found string)           { e.verdict(OK, found, "") }
func (e expectation) info(found, remedy string) { e.verdict(Info, found, remedy) }
func (e expectation) warn(found, remedy string) { e.verdict(Warn, found, remedy) }
func (e expectation) fail(found, remedy string) { e.verdict(Fail, found, remedy) }

// unseen reports that the fact could not be learned.
func (e expectation) unseen(err error) {
	remedy := "look by hand"
	switch {
	case errors.Is(err, host.ErrNotLive):
		e.info("not examined: "+err.Error(), "run rfo check-config on the host itself")
		return
	case errors.Is(err, fs.ErrPermission):
		remedy = "run as root: sudo rfo check-config"
	case errors.Is(err, fs.ErrNotExist):
		remedy = "make sure that /proc and /sys are mounted, then repeat"
	}
	e.warn("cannot tell: "+err.Error(), remedy)
}

// printable keeps control characters that stand in a host's files (names of processes, say) away from a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}
