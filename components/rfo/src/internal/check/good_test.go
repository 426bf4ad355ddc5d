package check

import (
	"strings"
	"testing"

	"github.com/rfolabs/rfo/internal/hosttest"
)

const (
	absent  = hosttest.Absent
	running = "5.10.0-136.12.0.86.oe2203sp1.x86_64"
	header  = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
)

// good is an openEuler host that was prepared as the guide says: every finding is ok.
var good = hosttest.Files{
	"/etc/os-release": "NAME=\"openEuler\"\nVERSION=\"22.03 (LTS-SP1)\"\nID=\"openEuler\"\nVERSION_ID=\"22.03\"\n",
	"/usr/bin/tar":    "x:", "/usr/bin/mount": "x:", "/usr/sbin/modprobe": "x:",
	"/proc/swaps":                    "Filename\tType\tSize\tUsed\tPriority\n",
	"/proc/self/limits":              "Limit  Soft Limit  Hard Limit  Units\nMax open files            1048576              1048576              files\n",
	"/proc/sys/kernel/osrelease":     running + "\n",
	"/boot/config-" + running:        goodConfig(),
	"/proc/self/mountinfo":           mountsV1,
	"/proc/meminfo":                  "MemTotal:       16384000 kB\nMemFree: 1 kB\n",
	"/sys/devices/system/cpu/online": "0-3\n",
	"/proc/sys/kernel/hostname":      "node-1\n",
	"/etc/hosts":                     "127.0.0.1 localhost\n10.0.0.1 node-1 # us\n",
	"/proc/net/route":                "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\neth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\n",
	"/proc/net/tcp":                  header, "/proc/net/tcp6": header, "/proc/net/udp": header, "/proc/net/udp6": header,
	"/proc/1/comm":                                 "systemd\n",
	"/etc/resolv.conf":                             "search example\nnameserver 10.0.0.53\n",
	"/proc/sys/fs/nr_open":                         "1073741816",
	"/proc/sys/user/max_user_namespaces":           "63000",
	"/proc/sys/net/ipv4/ip_forward":                "1",
	"/proc/sys/net/bridge/bridge-nf-call-iptables": "1",
	"/proc/sys/fs/inotify/max_user_instances":      "8192",
	"/proc/sys/fs/inotify/max_user_watches":        "524288",
	"/proc/sys/vm/panic_on_oom":                    "0",
	"/proc/sys/vm/overcommit_memory":               "1",
	"/proc/sys/kernel/panic":                       "10",
	"/proc/sys/kernel/panic_on_oops":               "1",
	"/proc/sys/kernel/keys/root_maxkeys":           "1000000",
	"/proc/sys/kernel/keys/root_maxbytes":          "25000000",
}

const rootMount = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"

const mountsV1 = rootMount +
	"25 22 0:20 / /sys/fs/cgroup ro shared:9 - tmpfs tmpfs ro\n" +
	"26 25 0:21 / /sys/fs/cgroup/cpu,cpuacct rw shared:10 - cgroup cgroup rw,cpu,cpuacct\n" +
	"27 25 0:22 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n" +
	"28 25 0:23 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n" +
	"29 25 0:24 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n" +
	"30 25 0:25 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices\n" +
	"31 25 0:26 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n" +
	"32 25 0:27 / /sys/fs/cgroup/hugetlb rw - cgroup cgroup rw,hugetlb\n"

// goodConfig has every option that the feature table asks for, half of them as modules.
func goodConfig() string {
	var b strings.Builder
	for _, f := range features {
		for _, alternative := range f.alternatives {
			for _, o := range alternative {
				value := "y"
				if o.module != "" {
					value = "m"
				}
				name, _, _ := strings.Cut(o.config, "|")
				b.WriteString("CONFIG_" + name + "=" + value + "\n")
			}
		}
	}
	return b.String()
}

func inspect(t *testing.T, files hosttest.Files) Report {
	t.Helper()
	return Run(hosttest.New(t, files), Options{Role: Server, DataDir: "/var/lib/rancher/rfo"})
}

func (r Report) find(t *testing.T, id string) Finding {
	t.Helper()
	for _, f := range r.Findings {
		if f.ID == id {
			return f
		}
	}
	t.Fatalf("no finding %s", id)
	return Finding{}
}

// variant is one change of the good host and what it shall lead to.
type variant struct {
	name   string
	change hosttest.Files
	id     string
	status Status
	found  string // a part of it
}

func check(t *testing.T, variants []variant) {
	t.Helper()
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			f := inspect(t, good.With(v.change)).find(t, v.id)
			if f.Status != v.status || !strings.Contains(f.Found, v.found) {
				t.Errorf("%s: got %s %q; want %s with %q", v.id, f.Status, f.Found, v.status, v.found)
			}
			if f.Status >= Warn && f.Remedy == "" {
				t.Errorf("%s: %s without a remedy", v.id, f.Status)
			}
		})
	}
}
