package check

import (
	"fmt"
	"strings"
)

// option is one kernel configuration symbol. Where no configuration is readable, the module's name or a trace that only
// the feature leaves ("fs:NAME" in /proc/filesystems, or a path) stands in for it. "a|b" are names of different kernels.
type option struct{ config, module, trace string }

// feature is present when all options of one alternative are.
type feature struct {
	id           string
	missing      Status
	why          string
	alternatives [][]option
}

func all(options ...option) [][]option { return [][]option{options} }

var features = []feature{
	{"namespaces", Fail, "isolation of pods", all(
		option{"NAMESPACES", "", "/proc/self/ns"}, option{"NET_NS", "", "/proc/self/ns/net"},
		option{"PID_NS", "", "/proc/self/ns/pid"}, option{"IPC_NS", "", "/proc/self/ns/ipc"},
		option{"UTS_NS", "", "/proc/self/ns/uts"})},
	{"user-namespaces", Info, "rootless tools and user namespaces for pods", all(option{"USER_NS", "", "/proc/self/ns/user"})},
	{"cgroups", Fail, "resource limits of pods", all(
		option{"CGROUPS", "", "/proc/cgroups"}, option{"CGROUP_PIDS", "", ""}, option{"CGROUP_CPUACCT", "", ""},
		option{"CGROUP_DEVICE", "", ""}, option{"CGROUP_FREEZER", "", ""}, option{"CGROUP_SCHED", "", ""},
		option{"CPUSETS", "", "/proc/self/cpuset"}, option{"MEMCG", "", ""})},
	{"cfs-bandwidth", Warn, "CPU limits of pods", all(option{"CFS_BANDWIDTH", "", "/proc/sys/kernel/sched_cfs_bandwidth_slice_us"})},
	{"hugetlb", Info, "huge pages for pods", all(option{"CGROUP_HUGETLB", "", ""})},
	{"cgroup-bpf", Warn, "device access control on cgroup v2", all(option{"CGROUP_BPF", "", ""})},
	{"overlayfs", Fail, "image layers", all(option{"OVERLAY_FS", "overlay", "fs:overlay"})},
	{"veth", Fail, "network interfaces of pods", all(option{"VETH", "veth", ""})},
	{"bridge", Fail, "pod networks", all(option{"BRIDGE", "bridge", ""})},
	{"br_netfilter", Fail, "Services reached over a bridge", all(option{"BRIDGE_NETFILTER", "br_netfilter", "/proc/sys/net/bridge"})},
	{"vxlan", Fail, "pod traffic between nodes", all(option{"VXLAN", "vxlan", ""})},
	{"conntrack", Fail, "Services", all(
		option{"NF_CONNTRACK", "nf_conntrack", "/proc/sys/net/netfilter/nf_conntrack_max"},
		option{"NETFILTER_XT_MATCH_CONNTRACK", "xt_conntrack", ""})},
	{"nat", Fail, "Services and traffic out of the cluster", all(
		option{"NF_NAT", "nf_nat", ""},
		option{"NETFILTER_XT_TARGET_MASQUERADE|IP_NF_TARGET_MASQUERADE", "xt_MASQUERADE|ipt_MASQUERADE", ""})},
	{"packet-filter", Fail, "kube-proxy, through nf_tables or legacy iptables", [][]option{
		{{"NF_TABLES", "nf_tables", ""}, {"NFT_COMPAT", "nft_compat", ""}},
		{{"IP_NF_IPTABLES", "ip_tables", ""}, {"IP_NF_FILTER", "iptable_filter", ""}, {"IP_NF_NAT", "iptable_nat", ""}}}},
	{"xtables", Fail, "matches that kube-proxy's rules use", all(
		option{"NETFILTER_XT_MATCH_ADDRTYPE", "xt_addrtype", ""}, option{"NETFILTER_XT_MATCH_COMMENT", "xt_comment", ""},
		option{"NETFILTER_XT_MATCH_MULTIPORT", "xt_multiport", ""}, option{"NETFILTER_XT_MATCH_STATISTIC", "xt_statistic", ""},
		option{"NETFILTER_XT_MARK", "xt_mark", ""})},
	{"ipset", Warn, "network policies", all(option{"IP_SET", "ip_set", ""}, option{"NETFILTER_XT_SET", "xt_set", ""})},
	{"ipvs", Info, "kube-proxy in ipvs mode", all(
		option{"IP_VS", "ip_vs", ""}, option{"IP_VS_RR", "ip_vs_rr", ""}, option{"IP_VS_WRR", "ip_vs_wrr", ""},
		option{"IP_VS_SH", "ip_vs_sh", ""}, option{"NETFILTER_XT_MATCH_IPVS", "xt_ipvs", ""})},
	{"seccomp", Fail, "system call filters", all(
		option{"SECCOMP", "", "/proc/sys/kernel/seccomp"}, option{"SECCOMP_FILTER", "", "/proc/sys/kernel/seccomp/actions_avail"})},
	{"keys", Fail, "runc's session keyring", all(option{"KEYS", "", "/proc/sys/kernel/keys"})},
	{"mqueue", Fail, "the /dev/mqueue of pods", all(option{"POSIX_MQUEUE", "", "fs:mqueue"})},
}

// inspectKernel says first where its knowledge comes from, since without a configuration some answers stay open.
func inspectKernel(in *inspection) {
	k := readKernel(in.Host)
	source := in.want("source", "a readable kernel configuration")
	switch {
	case k.config == nil && k.release == "":
		source.warn("no kernel found", "make sure that /proc is mounted, then repeat")
	case k.config == nil:
		source.info("traces of the running kernel "+k.release+", no configuration found", "modprobe configs  # gives /proc/config.gz on some kernels")
	default:
		source.ok(k.source)
	}
	for _, f := range features {
		k.judge(in, f)
	}
}

// judge reports the best alternative of a feature.
func (k kernel) judge(in *inspection, f feature) {
	want := in.want(f.id, "for "+f.why)
	var best []answer
	for _, alternative := range f.alternatives {
		answers := k.answers(alternative)
		if best == nil || score(answers) > score(best) {
			best = answers
		}
	}
	found := make([]string, len(best))
	for i, a := range best {
		found[i] = a.String()
	}
	text := strings.Join(found, ", ")
	switch worst := worstOf(best); worst.state {
	case builtin, module:
		want.ok(text)
	case fileless:
		want.verdict(min(f.missing, Warn), text, fmt.Sprintf("dnf install '*/%s.ko*'  # the package that holds it for kernel %s", worst.module, k.release))
	case missing:
		want.verdict(f.missing, text, "boot a kernel that has CONFIG_"+worst.name+", such as the distribution's own")
	default:
		want.verdict(min(f.missing, Warn), text, "grep CONFIG_"+worst.name+"= CONFIG-FILE-OF-YOUR-KERNEL")
	}
}
