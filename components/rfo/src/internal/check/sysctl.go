package check

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// cisFile is in the release's tarball, packagedCisFile in its packages; the values below are those in it.
const (
	cisFile         = "/usr/local/share/rfo/rfo-cis-sysctl.conf"
	packagedCisFile = "/usr/share/rfo/rfo-cis-sysctl.conf"
)

// cisSysctls are what the kubelet asserts with protect-kernel-defaults, which the CIS profile turns on.
var cisSysctls = []struct {
	name string
	want int64
}{
	{"vm.panic_on_oom", 0},
	{"vm.overcommit_memory", 1},
	{"kernel.panic", 10},
	{"kernel.panic_on_oops", 1},
	{"kernel.keys.root_maxkeys", 1000000},
	{"kernel.keys.root_maxbytes", 25000000},
}

func sysctlPath(name string) string { return "/proc/sys/" + strings.ReplaceAll(name, ".", "/") }

func inspectSysctls(in *inspection) {
	in.switchedOn("net.ipv4.ip_forward", "traffic of pods is routed through the host", "")
	in.switchedOn("net.bridge.bridge-nf-call-iptables", "Services are reached over a bridge", "br_netfilter is not loaded yet; RFO's units load it")
	in.atLeast("fs.inotify.max_user_instances", 512)
	in.atLeast("fs.inotify.max_user_watches", 65536)
	file := cisFile
	if in.Exists(packagedCisFile) {
		file = packagedCisFile
	}
	for _, s := range cisSysctls {
		want := in.want(s.name, fmt.Sprintf("%d with the CIS profile", s.want))
		switch n, err := in.Number(sysctlPath(s.name)); {
		case err != nil:
			want.unseen(err)
		case n != s.want:
			want.info(fmt.Sprint(n), "only for the CIS profile: cp "+file+" /etc/sysctl.d/60-rfo-cis.conf && sysctl --system")
		default:
			want.ok(fmt.Sprint(n))
		}
	}
}

// switchedOn judges a switch that must be 1. absent explains a sysctl that comes only with its module.
func (in *inspection) switchedOn(name, why, absent string) {
	want := in.want(name, "1: "+why)
	switch n, err := in.Number(sysctlPath(name)); {
	case absent != "" && errors.Is(err, fs.ErrNotExist):
		want.info(absent, "")
	case err != nil:
		want.unseen(err)
	case n != 1:
		want.warn(fmt.Sprint(n), fmt.Sprintf("echo '%s = 1' >> /etc/sysctl.d/90-rfo.conf && sysctl --system", name))
	default:
		want.ok("1")
	}
}

// atLeast judges limits that a node with many pods runs into.
func (in *inspection) atLeast(name string, least int64) {
	want := in.want(name, fmt.Sprintf("%d or more, for nodes with many pods", least))
	switch n, err := in.Number(sysctlPath(name)); {
	case err != nil:
		want.unseen(err)
	case n < least:
		want.info(fmt.Sprint(n), fmt.Sprintf("sysctl -w %s=%d", name, least))
	default:
		want.ok(fmt.Sprint(n))
	}
}
