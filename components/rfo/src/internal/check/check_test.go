package check

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rfolabs/rfo/internal/hosttest"
)

func TestGoodHost(t *testing.T) {
	report := inspect(t, good)
	for _, f := range report.Findings {
		if f.Status != OK {
			t.Errorf("%s: %s %q", f.ID, f.Status, f.Found)
		}
		if f.Expected == "" || f.Remedy != "" || !strings.HasPrefix(f.ID, f.Group+".") {
			t.Errorf("malformed: %+v", f)
		}
	}
	if report.Status.ExitCode() != 0 {
		t.Errorf("exit code %d", report.Status.ExitCode())
	}
}

// An empty root has nothing to read: nothing may pass as ok by mistake that needs evidence, and nothing may panic.
func TestEmptyRoot(t *testing.T) {
	report := inspect(t, hosttest.Files{})
	if report.Status < Warn {
		t.Errorf("an empty root is %s", report.Status)
	}
	for _, f := range report.Findings {
		if f.Status == OK && (f.Group == "kernel" || f.Group == "cgroup" || f.Group == "ports" || f.Group == "sysctl" || f.Group == "dns") {
			t.Errorf("%s is ok without evidence: %q", f.ID, f.Found)
		}
	}
}

// Every file of the good host in turn is missing, empty and garbage.
func TestBrokenFiles(t *testing.T) {
	for name := range good {
		for what, content := range map[string]string{"missing": absent, "empty": "", "garbage": "\x1b[31m\xff\x00 = : - ,\n[\n=\n:::\n"} {
			t.Run(what+name, func(t *testing.T) {
				report := inspect(t, good.With(hosttest.Files{name: content}))
				if len(report.Findings) < 40 && name != "/proc/self/mountinfo" {
					t.Errorf("only %d findings", len(report.Findings))
				}
				if strings.ContainsAny(report.Table(false), "\x1b\x00") {
					t.Error("control characters reach the terminal")
				}
			})
		}
	}
}

func TestIDsAreUnique(t *testing.T) {
	var ids []string
	for _, f := range inspect(t, good).Findings {
		if slices.Contains(ids, f.ID) {
			t.Errorf("%s twice", f.ID)
		}
		ids = append(ids, f.ID)
	}
}

func TestNothingIsChanged(t *testing.T) {
	h := hosttest.New(t, good)
	snapshot := func() (names []string) {
		_ = filepath.WalkDir(h.Root, func(p string, d os.DirEntry, _ error) error {
			info, _ := d.Info()
			names = append(names, p+info.Mode().String()+info.ModTime().String())
			return nil
		})
		return names
	}
	before := snapshot()
	Run(h, Options{Role: Server, DataDir: "/var/lib/rancher/rfo"})
	if !slices.Equal(before, snapshot()) {
		t.Error("the host is different afterwards")
	}
}

func TestExitCodes(t *testing.T) {
	for status, want := range map[Status]int{OK: 0, Info: 0, Warn: 1, Fail: 2} {
		if got := status.ExitCode(); got != want {
			t.Errorf("%s: got %d, want %d", status, got, want)
		}
	}
}

var small = Report{
	Schema: Schema, Version: "dev", Role: Agent, DataDir: "/d", Root: "/", Status: Fail,
	Summary: map[string]int{"ok": 1, "info": 1, "warn": 0, "fail": 1},
	Findings: []Finding{
		{"a.one", "a", OK, "fine", "fine", ""},
		{"a.two", "a", Fail, "bad <&>", "good", "do && it"},
		{"b.three", "b", Info, "note", "", ""},
	},
}

func TestTable(t *testing.T) {
	want := `rfo dev check-config: role agent, data directory /d

A
  ok    a.one    fine
  fail  a.two    bad <&>
                 expected: good
                 remedy:   do && it

B
  info  b.three  note

1 ok, 1 info, 0 warn, 1 fail: this host cannot run rfo agent yet
`
	if got := small.Table(false); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	if got := small.Table(true); !strings.Contains(got, "\x1b[1;31mfail\x1b[0m  a.two") {
		t.Errorf("no colour:\n%q", got)
	}
}

func TestJSON(t *testing.T) {
	got := small.JSON()
	if !strings.Contains(got, `"remedy": "do && it"`) {
		t.Error("the remedy cannot be pasted from the JSON")
	}
	var object map[string]any
	if err := json.Unmarshal([]byte(got), &object); err != nil {
		t.Fatal(err)
	}
	keys := []string{"dataDir", "findings", "role", "root", "schema", "status", "summary", "version"}
	for _, key := range keys {
		if _, ok := object[key]; !ok {
			t.Errorf("no %s", key)
		}
	}
	if len(object) != len(keys) || object["status"] != "fail" || object["schema"] != "rfo.check-config/v1" {
		t.Errorf("got %v", object)
	}
	finding := object["findings"].([]any)[1].(map[string]any)
	if len(finding) != 6 || finding["status"] != "fail" || finding["id"] != "a.two" {
		t.Errorf("got %v", finding)
	}
}
