package check

import (
	"bytes"
	"compress/gzip"
	"strings"
	"testing"

	"github.com/rfolabs/rfo/internal/hosttest"
)

func gz(text string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write([]byte(text))
	_ = w.Close()
	return b.String()
}

func without(option string) string {
	var kept strings.Builder
	for line := range strings.Lines(goodConfig()) {
		if strings.HasPrefix(line, "CONFIG_"+option+"=") {
			line = "# CONFIG_" + option + " is not set\n"
		}
		kept.WriteString(line)
	}
	return kept.String()
}

const bootConfig = "/boot/config-" + running

func TestKernelConfig(t *testing.T) {
	check(t, []variant{
		{"boot", nil, "kernel.source", OK, bootConfig},
		{"compressed", hosttest.Files{"/proc/config.gz": gz(goodConfig())}, "kernel.source", OK, "/proc/config.gz"},
		{"not gzip", hosttest.Files{"/proc/config.gz": "plain"}, "kernel.source", OK, bootConfig},
		{"cut off", hosttest.Files{"/proc/config.gz": gz(goodConfig())[:200]}, "kernel.source", OK, bootConfig},
		{"bomb", hosttest.Files{"/proc/config.gz": gz(strings.Repeat("CONFIG_VETH=y\n", 1<<20))}, "kernel.source", OK, bootConfig},
		{"in modules", hosttest.Files{bootConfig: absent, "/lib/modules/" + running + "/config": goodConfig()}, "kernel.source", OK, "/lib/modules"},
		{"none", hosttest.Files{bootConfig: absent}, "kernel.source", Info, "traces"},
		{"no kernel", hosttest.Files{bootConfig: absent, "/proc/sys/kernel/osrelease": absent}, "kernel.source", Warn, "no kernel"},
		{"release escapes", hosttest.Files{"/proc/sys/kernel/osrelease": "../../etc"}, "kernel.source", Warn, "no kernel"},

		{"module", nil, "kernel.overlayfs", OK, "OVERLAY_FS m"},
		{"loaded", hosttest.Files{"/sys/module/overlay/refcnt": "1"}, "kernel.overlayfs", OK, "m (loaded)"},
		{"missing", hosttest.Files{bootConfig: without("VXLAN")}, "kernel.vxlan", Fail, "VXLAN missing"},
		{"optional missing", hosttest.Files{bootConfig: without("IP_VS_RR")}, "kernel.ipvs", Info, "IP_VS_RR missing"},
		{"no file", hosttest.Files{"/lib/modules/" + running + "/modules.dep": "kernel/a/veth.ko.xz:\n"}, "kernel.vxlan", Warn, "not installed"},
		{"file with dash", hosttest.Files{"/lib/modules/" + running + "/modules.dep": "kernel/a/br-netfilter.ko.zst: x\n"}, "kernel.br_netfilter", OK, "m"},
		{"legacy only", hosttest.Files{bootConfig: without("NF_TABLES")}, "kernel.packet-filter", OK, "IP_NF_IPTABLES m"},
		{"nft only", hosttest.Files{bootConfig: without("IP_NF_IPTABLES")}, "kernel.packet-filter", OK, "NF_TABLES m"},
		{"older name", hosttest.Files{bootConfig: without("NETFILTER_XT_TARGET_MASQUERADE") + "CONFIG_IP_NF_TARGET_MASQUERADE=m\n"}, "kernel.nat", OK, "IP_NF_TARGET_MASQUERADE m"},
	})
}

func TestKernelTraces(t *testing.T) {
	bare := func(more hosttest.Files) hosttest.Files {
		files := hosttest.Files{bootConfig: absent}
		for name, content := range more {
			files[name] = content
		}
		return files
	}
	dir := "/lib/modules/" + running
	check(t, []variant{
		{"file system", bare(hosttest.Files{"/proc/filesystems": "nodev\toverlay\n\text4\n"}), "kernel.overlayfs", OK, "y"},
		{"loaded", bare(hosttest.Files{"/sys/module/veth/x": ""}), "kernel.veth", OK, "m (loaded)"},
		{"builtin", bare(hosttest.Files{dir + "/modules.builtin": "kernel/drivers/net/vxlan/vxlan.ko\n"}), "kernel.vxlan", OK, "y"},
		{"file", bare(hosttest.Files{dir + "/modules.dep": "kernel/drivers/net/vxlan/vxlan.ko.xz:\n"}), "kernel.vxlan", OK, "m"},
		{"path", bare(hosttest.Files{"/proc/self/ns/user": ""}), "kernel.user-namespaces", OK, "y"},
		{"nothing", bare(nil), "kernel.vxlan", Warn, "unknown"},
		{"nothing, optional", bare(nil), "kernel.ipvs", Info, "unknown"},
	})
}

const mountsV2 = rootMount + "25 22 0:20 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n"

func TestCgroups(t *testing.T) {
	v2 := func(controllers string) hosttest.Files {
		return hosttest.Files{"/proc/self/mountinfo": mountsV2, "/sys/fs/cgroup/cgroup.controllers": controllers}
	}
	hybrid := mountsV1 + "40 25 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
	check(t, []variant{
		{"v1", nil, "cgroup.mode", OK, "v1"},
		{"hybrid", hosttest.Files{"/proc/self/mountinfo": hybrid}, "cgroup.mode", OK, "hybrid"},
		{"v2", v2("cpuset cpu io memory hugetlb pids"), "cgroup.mode", OK, "v2"},
		{"v2 controllers", v2("cpuset cpu io memory hugetlb pids"), "cgroup.controllers", OK, "all"},
		{"v2 without memory", v2("cpuset cpu pids"), "cgroup.controllers", Fail, "absent: memory"},
		{"v2 without hugetlb", v2("cpuset cpu memory pids"), "cgroup.hugetlb", Info, "absent"},
		{"v2 unreadable", hosttest.Files{"/proc/self/mountinfo": mountsV2}, "cgroup.controllers", Warn, "cannot tell"},
		{"v1 without pids", hosttest.Files{"/proc/self/mountinfo": strings.Replace(mountsV1, "rw,pids", "rw", 1)}, "cgroup.controllers", Fail, "absent: pids"},
		{"none", hosttest.Files{"/proc/self/mountinfo": rootMount}, "cgroup.mode", Fail, "none"},
		{"no mountinfo", hosttest.Files{"/proc/self/mountinfo": absent}, "cgroup.mode", Warn, "cannot tell"},
		{"malformed rows", hosttest.Files{"/proc/self/mountinfo": "1 2\n - \n1 2 3 / /x - \n"}, "cgroup.mode", Fail, "none"},
	})
}
