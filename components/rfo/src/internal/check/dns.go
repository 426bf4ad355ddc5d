package check

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/rfolabs/rfo/internal/host"
)

// resolvedFile is where systemd-resolved keeps the real servers behind its stub.
const resolvedFile = "/run/systemd/resolve/resolv.conf"

// inspectDNS looks for what makes CoreDNS crash: no server to forward to, or a loopback one, which inside the pod is
// CoreDNS itself and makes a loop.
func inspectDNS(in *inspection) {
	want := in.want("resolv.conf", "one to three name servers that are not loopback addresses")
	servers, err := nameServers(in.Host, "/etc/resolv.conf")
	if err != nil {
		want.unseen(err)
		return
	}
	usable := routable(servers)
	const write = "write 'nameserver ADDRESS' into a file and name it as resolv-conf: in /etc/rancher/rfo/config.yaml"
	switch behind, _ := nameServers(in.Host, resolvedFile); {
	case len(servers) == 0:
		want.warn("no nameserver line: CoreDNS stops with \"no nameservers found\"", write)
	case len(usable) == len(servers) && len(servers) > 3:
		want.info(fmt.Sprintf("%d servers, of which pods get three", len(servers)), "")
	case len(usable) == len(servers):
		want.ok(strings.Join(servers, ", "))
	case len(routable(behind)) > 0 && len(routable(behind)) == len(behind):
		want.info(strings.Join(servers, ", ")+", a local stub", "write 'resolv-conf: "+resolvedFile+"' into /etc/rancher/rfo/config.yaml")
	default:
		want.warn(strings.Join(servers, ", ")+": a loopback server makes CoreDNS stop with \"Loop detected\"", write)
	}
}

func nameServers(h host.Host, file string) ([]string, error) {
	var servers []string
	err := h.Lines(file, func(line string) {
		if fields := strings.Fields(line); len(fields) >= 2 && fields[0] == "nameserver" {
			servers = append(servers, fields[1])
		}
	})
	return servers, err
}

// routable keeps the servers that mean the same inside a pod.
func routable(servers []string) []string {
	var kept []string
	for _, s := range servers {
		if ip, err := netip.ParseAddr(s); err == nil && !ip.IsLoopback() && !ip.IsUnspecified() {
			kept = append(kept, s)
		}
	}
	return kept
}
