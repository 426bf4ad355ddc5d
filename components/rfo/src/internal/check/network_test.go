package check

import (
	"slices"
	"strings"
	"testing"

	"github.com/rfolabs/rfo/internal/hosttest"
)

// socket is a row of /proc/net/{tcp,udp}.
func socket(address, state, inode string) string {
	return "   0: " + address + " 00000000:0000 " + state + " 00000000:00000000 00:00000000 00000000     0        0 " + inode + " 1 0 100 0 0 10 0\n"
}

func TestParseAddress(t *testing.T) {
	for text, want := range map[string]string{
		"0100007F:192B":                         "127.0.0.1:6443",
		"00000000:2481":                         "0.0.0.0:9345",
		"00000000000000000000000001000000:192B": "[::1]:6443",
		"0000000000000000FFFF00000100007F:192B": "127.0.0.1:6443",
	} {
		if got, ok := parseAddress(text); !ok || got.String() != want {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
	}
	for _, text := range []string{"", "0100007F", "0100007F:", "0100007F:12345", "01:0050", "zz00007F:0050"} {
		if got, ok := parseAddress(text); ok {
			t.Errorf("%q passed as %s", text, got)
		}
	}
}

func TestPorts(t *testing.T) {
	api := hosttest.Files{"/proc/net/tcp6": header + socket("00000000000000000000000000000000:192B", "0A", "77")}
	owned := api.With(hosttest.Files{"/proc/42/comm": "haproxy\n", "/proc/42/fd/5": "-> socket:[77]"})
	check(t, []variant{
		{"owner unseen", api, "ports.6443-tcp", Fail, "not visible"},
		{"owner", owned, "ports.6443-tcp", Fail, "[::]:6443 by haproxy (pid 42)"},
		{"own", owned.With(hosttest.Files{"/proc/1/comm": "systemd", "/proc/9/comm": "rfo\n"}), "ports.6443-tcp", Info, "RFO runs here"},
		{"not listening", hosttest.Files{"/proc/net/tcp": header + socket("0100007F:192B", "01", "1")}, "ports.6443-tcp", OK, "free"},
		{"vxlan", hosttest.Files{"/proc/net/udp": header + socket("00000000:2118", "07", "0")}, "ports.8472-udp", Fail, "0.0.0.0:8472"},
		{"malformed", hosttest.Files{"/proc/net/tcp": header + "   0: nonsense\n   1: x:y z 0A 1 2 3 4 5 6\n"}, "ports.6443-tcp", OK, "free"},
		{"no IPv6", hosttest.Files{"/proc/net/tcp6": absent}, "ports.6443-tcp", OK, "free"},
		{"no table", hosttest.Files{"/proc/net/tcp": absent}, "ports.6443-tcp", Warn, "cannot tell"},
	})
}

func TestAgentPorts(t *testing.T) {
	report := Run(hosttest.New(t, good), Options{Role: Agent, DataDir: "/x"})
	var got []string
	for _, f := range report.Findings {
		if f.Group == "ports" {
			got = append(got, f.ID)
		}
	}
	if want := []string{"ports.10250-tcp", "ports.8472-udp"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestFirewallAndRoutes(t *testing.T) {
	route := func(row string) hosttest.Files {
		return hosttest.Files{"/proc/net/route": good["/proc/net/route"] + row}
	}
	check(t, []variant{
		{"running", hosttest.Files{"/proc/5/comm": "firewalld\n"}, "network.firewalld", Warn, "running"},
		{"enabled", hosttest.Files{"/etc/systemd/system/multi-user.target.wants/firewalld.service": "-> /usr/lib/systemd/system/firewalld.service"}, "network.firewalld", Warn, "next boot"},
		{"installed only", hosttest.Files{"/usr/lib/systemd/system/firewalld.service": ""}, "network.firewalld", OK, "not running"},
		{"pod network taken", route("eth1\t00002A0A\t00000000\t0001\t0\t0\t0\t0000FFFF\n"), "network.routes", Warn, "10.42.0.0/16 via eth1"},
		{"part of it", route("eth1\t00052B0A\t00000000\t0001\t0\t0\t0\t00FFFFFF\n"), "network.routes", Warn, "10.43.5.0/24"},
		{"own bridge", route("cni0\t00002A0A\t00000000\t0001\t0\t0\t0\t00FFFFFF\n"), "network.routes", OK, ""},
		{"beside it", route("eth1\t00002C0A\t00000000\t0001\t0\t0\t0\t0000FFFF\n"), "network.routes", OK, ""},
		{"malformed", route("eth1\tzz\n eth1 zz 0 0 0 0 0 zz\n"), "network.routes", OK, ""},
		{"unreadable", hosttest.Files{"/proc/net/route": absent}, "network.routes", Warn, "cannot tell"},
	})
}

func TestNetworkManager(t *testing.T) {
	const etc, vendor, run = "/etc/NetworkManager/conf.d/", "/usr/lib/NetworkManager/conf.d/", "/run/NetworkManager/conf.d/"
	both := "[keyfile]\nunmanaged-devices=interface-name:cali*;interface-name:flannel*\n"
	with := func(pairs ...string) hosttest.Files {
		files := hosttest.Files{"/proc/5/comm": "NetworkManager\n"}
		for i := 0; i < len(pairs); i += 2 {
			files[pairs[i]] = pairs[i+1]
		}
		return files
	}
	check(t, []variant{
		{"absent", nil, "network.networkmanager", OK, "absent"},
		{"installed, not configured", hosttest.Files{"/usr/sbin/NetworkManager": "x:"}, "network.networkmanager", Warn, "cali*, flannel*"},
		{"configured", with(etc+"rfo.conf", both), "network.networkmanager", OK, "alone"},
		{"by the vendor", with(vendor+"rfo.conf", both), "network.networkmanager", OK, "alone"},
		{"half", with(etc+"x.conf", "[keyfile]\nunmanaged-devices=interface-name:cali*\n"), "network.networkmanager", Warn, "flannel*"},
		{"commas and a star", with(etc+"x.conf", "[keyfile]\nunmanaged-devices = interface-name:eth9 , *\n"), "network.networkmanager", OK, ""},
		{"exception", with(etc+"x.conf", "[keyfile]\nunmanaged-devices=*,except:interface-name:flannel*\n"), "network.networkmanager", Warn, "manages flannel*"},
		{"appended", with(etc+"a.conf", "[keyfile]\nunmanaged-devices=interface-name:cali*\n", etc+"b.conf", "[keyfile]\nunmanaged-devices+=interface-name:flannel*\n"), "network.networkmanager", OK, ""},
		{"removed", with(etc+"a.conf", both, etc+"b.conf", "[keyfile]\nunmanaged-devices-=interface-name:cali*\n"), "network.networkmanager", Warn, "cali*"},
		{"overwritten later", with(etc+"a.conf", both, etc+"b.conf", "[keyfile]\nunmanaged-devices=\n"), "network.networkmanager", Warn, ""},
		{"main before conf.d", with("/etc/NetworkManager/NetworkManager.conf", "[keyfile]\nunmanaged-devices=none\n", etc+"a.conf", both), "network.networkmanager", OK, ""},
		{"hidden by same name", with(vendor+"a.conf", both, etc+"a.conf", "[main]\n"), "network.networkmanager", Warn, ""},
		{"run hides vendor", with(vendor+"a.conf", "[keyfile]\nunmanaged-devices=none\n", run+"a.conf", both), "network.networkmanager", OK, ""},
		{"device section", with(etc+"a.conf", "[device-rfo]\nmatch-device=interface-name:cali*;interface-name:flannel*\nmanaged=0\n"), "network.networkmanager", OK, ""},
		{"device section wins", with(etc+"a.conf", both+"[device]\nmatch-device=interface-name:cali*\nmanaged=1\n"), "network.networkmanager", Warn, "cali*"},
		{"wrong section", with(etc+"a.conf", strings.Replace(both, "keyfile", "main", 1)), "network.networkmanager", Warn, ""},
		{"not a .conf", with(etc+"a.conf.bak", both), "network.networkmanager", Warn, ""},
		{"literal name", with(etc+"a.conf", "[keyfile]\nunmanaged-devices=interface-name:=cali*;interface-name:flannel.1\n"), "network.networkmanager", Warn, "manages cali*"},
	})
}

func TestDNS(t *testing.T) {
	resolv := func(text string) hosttest.Files { return hosttest.Files{"/etc/resolv.conf": text} }
	stub := "nameserver 127.0.0.53\noptions edns0\n"
	check(t, []variant{
		{"one", nil, "dns.resolv.conf", OK, "10.0.0.53"},
		{"IPv6", resolv("nameserver fd00::53\n"), "dns.resolv.conf", OK, "fd00::53"},
		{"empty", resolv(""), "dns.resolv.conf", Warn, "no nameserver"},
		{"commented", resolv("#nameserver 10.0.0.1\nnameserver\n"), "dns.resolv.conf", Warn, "no nameserver"},
		{"missing", resolv(absent), "dns.resolv.conf", Warn, "cannot tell"},
		{"loopback", resolv("nameserver 127.0.0.1\n"), "dns.resolv.conf", Warn, "Loop"},
		{"loopback beside a good one", resolv("nameserver 10.0.0.1\nnameserver ::1\n"), "dns.resolv.conf", Warn, "Loop"},
		{"not an address", resolv("nameserver dns.example\n"), "dns.resolv.conf", Warn, ""},
		{"four", resolv(strings.Repeat("nameserver 10.0.0.1\n", 4)), "dns.resolv.conf", Info, "4 servers"},
		{"resolved", hosttest.Files{"/etc/resolv.conf": "-> ../run/systemd/resolve/stub-resolv.conf", "/run/systemd/resolve/stub-resolv.conf": stub, resolvedFile: "nameserver 10.0.0.2\n"}, "dns.resolv.conf", Info, "stub"},
		{"resolved without servers", hosttest.Files{"/etc/resolv.conf": stub, resolvedFile: "search x\n"}, "dns.resolv.conf", Warn, "Loop"},
	})
}
