package check

import (
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/rfolabs/rfo/internal/host"
	"github.com/rfolabs/rfo/internal/hosttest"
	"github.com/rfolabs/rfo/internal/version"
)

func TestCountRanges(t *testing.T) {
	for list, want := range map[string]int{"0": 1, "0-3": 4, "0-1,4,6-7": 5} {
		if got, err := countRanges(list); err != nil || got != want {
			t.Errorf("%q: got %d, %v; want %d", list, got, err, want)
		}
	}
	for _, list := range []string{"", "a", "3-1", "0-", "-1", "0,,1", "0-99999999999"} {
		if got, err := countRanges(list); err == nil {
			t.Errorf("%q: got %d", list, got)
		}
	}
}

func TestResources(t *testing.T) {
	memory := func(kib string) hosttest.Files { return hosttest.Files{"/proc/meminfo": "MemTotal: " + kib + " kB\n"} }
	cpus := func(list string) hosttest.Files { return hosttest.Files{"/sys/devices/system/cpu/online": list} }
	on := func(rows string) hosttest.Files { return hosttest.Files{"/proc/self/mountinfo": mountsV1 + rows} }
	check(t, []variant{
		{"sold as 4 GB", memory("3800000"), "resources.memory", Info, "3.6 GiB"},
		{"2 GB", memory("2000000"), "resources.memory", Fail, "1.9 GiB"},
		{"malformed", memory("lots"), "resources.memory", Warn, "MemTotal"},
		{"no meminfo", hosttest.Files{"/proc/meminfo": absent}, "resources.memory", Warn, "cannot tell"},
		{"one CPU", cpus("0"), "resources.cpus", Fail, "1"},
		{"two CPUs", cpus("0-1"), "resources.cpus", Info, "2"},
		{"CPUs malformed", cpus("many"), "resources.cpus", Warn, "many"},
		{"xfs", on("50 22 8:2 / /var/lib/rancher rw - xfs /dev/sdb1 rw\n"), "resources.filesystem", OK, "xfs at /var/lib/rancher"},
		{"overlay", on("50 22 0:99 / /var rw - overlay overlay rw\n"), "resources.filesystem", Fail, "overlay at /var"},
		{"tmpfs", on("50 22 0:99 / /var/lib rw - tmpfs tmpfs rw\n"), "resources.filesystem", Warn, "tmpfs"},
		{"name alike", on("50 22 0:99 / /var/lib/ran rw - overlay overlay rw\n"), "resources.filesystem", OK, "ext4 at /"},
		{"hidden mount", on("50 22 0:9 / /var rw - overlay o rw\n51 22 0:8 / /var rw - ext4 /dev/x rw\n"), "resources.filesystem", OK, "ext4 at /var"},
	})
	linked := on("50 22 0:99 / /data\\040disk rw - nfs4 server:/x rw\n")
	linked["/var/lib/rancher"], linked["/data disk/x"] = "-> /data disk", ""
	check(t, []variant{{"link to nfs", linked, "resources.filesystem", Fail, "nfs4 at /data disk"}})
}

func TestDisk(t *testing.T) {
	const g = 1 << 30
	for _, c := range []struct {
		disk         host.Disk
		space, inode Status
	}{
		{host.Disk{Size: 100 * g, Free: 20 * g, Inodes: 1e6, FreeInodes: 1e5}, OK, OK},
		{host.Disk{Size: 100 * g, Free: 19 * g, Inodes: 1e6, FreeInodes: 99}, Warn, Warn},
		{host.Disk{Size: 100 * g, Free: 4 * g}, Fail, OK}, // no count of inodes: btrfs
	} {
		h := hosttest.New(t, good)
		h.Disk = func(string) (host.Disk, error) { return c.disk, nil }
		report := Run(h, Options{Role: Server, DataDir: "/srv/rfo"})
		if got := report.find(t, "resources.disk").Status; got != c.space {
			t.Errorf("%+v: space %s", c.disk, got)
		}
		if got := report.find(t, "resources.inodes").Status; got != c.inode {
			t.Errorf("%+v: inodes %s", c.disk, got)
		}
	}
	h := hosttest.New(t, good)
	h.Disk = func(string) (host.Disk, error) { return host.Disk{}, syscall.EACCES }
	if f := Run(h, Options{Role: Server, DataDir: "/x"}).find(t, "resources.disk"); f.Status != Warn || f.Remedy != "run as root: sudo rfo check-config" {
		t.Errorf("got %+v", f)
	}
}

func TestClock(t *testing.T) {
	at := func(year int, synchronised bool, err error, files hosttest.Files) Report {
		h := hosttest.New(t, good.With(files))
		h.Clock = func() (host.Clock, error) {
			if year == 0 {
				return host.Clock{}, err
			}
			return host.Clock{Now: time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC), Synchronised: synchronised}, err
		}
		return Run(h, Options{Role: Server, DataDir: "/x"})
	}
	old := version.Date
	version.Date = "2026-05-01T00:00:00Z"
	t.Cleanup(func() { version.Date = old })
	for name, c := range map[string]struct {
		report Report
		id     string
		want   Status
	}{
		"1970":         {at(1970, true, nil, nil), "clock.time", Fail},
		"2025":         {at(2025, true, nil, nil), "clock.time", Fail},
		"2027":         {at(2027, true, nil, nil), "clock.time", OK},
		"synchronised": {at(2027, true, nil, nil), "clock.synchronised", OK},
		"drifting":     {at(2027, false, nil, nil), "clock.synchronised", Warn},
		"timesyncd":    {at(2027, false, nil, hosttest.Files{"/run/systemd/timesync/synchronized": ""}), "clock.synchronised", OK},
		"refused":      {at(2027, false, errors.New("no"), nil), "clock.synchronised", Warn},
		"mounted disk": {at(0, false, host.ErrNotLive, nil), "clock.time", Info},
	} {
		if got := c.report.find(t, c.id); got.Status != c.want {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}

func TestSysctls(t *testing.T) {
	check(t, []variant{
		{"forwarding off", hosttest.Files{"/proc/sys/net/ipv4/ip_forward": "0"}, "sysctl.net.ipv4.ip_forward", Warn, "0"},
		{"forwarding malformed", hosttest.Files{"/proc/sys/net/ipv4/ip_forward": "on"}, "sysctl.net.ipv4.ip_forward", Warn, "not a number"},
		{"bridge off", hosttest.Files{"/proc/sys/net/bridge/bridge-nf-call-iptables": "0"}, "sysctl.net.bridge.bridge-nf-call-iptables", Warn, "0"},
		{"bridge not loaded", hosttest.Files{"/proc/sys/net/bridge/bridge-nf-call-iptables": absent}, "sysctl.net.bridge.bridge-nf-call-iptables", Info, "br_netfilter"},
		{"few instances", hosttest.Files{"/proc/sys/fs/inotify/max_user_instances": "128"}, "sysctl.fs.inotify.max_user_instances", Info, "128"},
		{"CIS", hosttest.Files{"/proc/sys/kernel/panic": "0"}, "sysctl.kernel.panic", Info, "0"},
	})
}
