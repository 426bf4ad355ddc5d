package check

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// nodeName is an RFC 1123 subdomain, which is what Kubernetes accepts for a Node.
var nodeName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$`)

func inspectName(in *inspection) {
	want := in.want("hostname", "lower-case letters, digits, '-' and '.', 253 characters at most, unique in the cluster")
	name, err := in.Text("/proc/sys/kernel/hostname")
	if err != nil {
		want.unseen(err)
		return
	}
	node := strings.ToLower(name) // as the kubelet does
	const remedy = "hostnamectl set-hostname NAME  # or node-name: NAME in /etc/rancher/rfo/config.yaml"
	switch {
	case len(node) > 253 || !nodeName.MatchString(node):
		want.fail(name, remedy)
	case node == "localhost" || strings.HasPrefix(node, "localhost."):
		want.warn(name+", which every unnamed host is called", remedy)
	case node != name:
		want.info(name+", the node will be "+node, "")
	default:
		want.ok(name)
	}
	in.resolvable(name)
}

// resolvable asks files only: a DNS query would need a socket.
func (in *inspection) resolvable(name string) {
	want := in.want("resolvable", "the hostname in /etc/hosts, or myhostname in /etc/nsswitch.conf")
	address := ""
	_ = in.Lines("/etc/hosts", func(line string) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) < 2 || address != "" {
			return
		}
		if _, err := netip.ParseAddr(fields[0]); err != nil {
			return
		}
		if slices.ContainsFunc(fields[1:], func(s string) bool { return strings.EqualFold(s, name) }) {
			address = fields[0]
		}
	})
	if address != "" {
		want.ok(address + " in /etc/hosts")
		return
	}
	myhostname := false
	_ = in.Lines("/etc/nsswitch.conf", func(line string) {
		if sources, ok := strings.CutPrefix(line, "hosts:"); ok {
			myhostname = slices.Contains(strings.Fields(sources), "myhostname")
		}
	})
	if myhostname {
		want.ok("by nss-myhostname")
		return
	}
	want.warn("not in /etc/hosts; DNS was not asked", "echo 'ADDRESS "+name+"' >> /etc/hosts")
}
