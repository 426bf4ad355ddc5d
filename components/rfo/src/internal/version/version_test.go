package version

import (
	"runtime"
	"testing"
)

func stamp(t *testing.T, version, date string) {
	t.Helper()
	oldVersion, oldDate := Version, Date
	Version, Date = version, date
	t.Cleanup(func() { Version, Date = oldVersion, oldDate })
}

func TestString(t *testing.T) {
	platform := " (" + runtime.Version() + ", " + runtime.GOOS + "/" + runtime.GOARCH + ")"
	stamp(t, "v1.25.4+rfor1", "")
	if got, want := String(), "rfo version v1.25.4+rfor1"+platform; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestMinor(t *testing.T) {
	for version, want := range map[string]int{"dev": 0, "v1.25.4+rfor1": 25, "v1.36.3+rfor10": 36, "v1": 0, "v1.x.2": 0, "": 0} {
		stamp(t, version, "")
		if got := Minor(); got != want {
			t.Errorf("%q: got %d, want %d", version, got, want)
		}
	}
}

func TestEpoch(t *testing.T) {
	stamp(t, "v1.36.3+rfor1", "2026-05-01T00:00:00Z")
	if got := Epoch().Year(); got != 2026 {
		t.Errorf("stamped epoch: got year %d", got)
	}
	for _, date := range []string{"", "yesterday"} {
		stamp(t, "dev", date)
		if got := Epoch().Year(); got != 2022 {
			t.Errorf("%q: got year %d", date, got)
		}
	}
}
