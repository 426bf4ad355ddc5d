#!/bin/sh
# Stop everything that RFO runs on this host and clear what it left in the kernel. Files stay: see rfo-uninstall.sh.
#
# RFO's processes are known by the paths of their programs, never by a name that others use too. Where another
# Kubernetes runs beside it, what the two would share is left alone.
set -u

usage() {
    cat <<'EOF'
Usage: rfo-killall.sh [--dry-run]

Stops rfo, its kubelet, its containerd and every container of theirs; then removes mounts, pod network interfaces,
firewall rules and empty pod cgroups. Data and configuration stay, so the node can be started again.

  --dry-run      print what would be done, and do nothing
  RFO_DATA_DIR   where the data is (default /var/lib/rancher/rfo)
  RFO_ROOT       work on the host mounted there, for tests: only tools from below it act

Exit codes: 0 done, 1 something would not go, 64 wrong usage.
EOF
}

say() { printf '[INFO]  %s\n' "$*"; }
warn() { printf '[WARN]  %s\n' "$*" >&2; status=1; }
die() { printf '[ERROR] %s\n' "$*" >&2; exit 64; }

# run COMMAND...: do it, or only say it.
run() {
    if [ "$dry" ]; then printf 'would run: %s\n' "$*"; else "$@"; fi
}

# find_tool NAME: set $tool to its path. With RFO_ROOT only tools below it count, so that no test touches its machine.
find_tool() {
    tool=$(command -v "$1") || return 1
    case $tool in "$root"/*) ;; *) [ -z "$root" ] ;; esac
}

processes() {
    for directory in "$proc"/[0-9]*; do
        [ -d "$directory" ] && printf '%s\n' "${directory##*/}"
    done
}

# here PID: whether a process sees the host's files, so that its paths mean what they mean here.
here() { [ "$(readlink "$proc/$1/ns/mnt" 2>/dev/null)" = "$(readlink "$proc/self/ns/mnt" 2>/dev/null)" ]; }

# ours PID: whether RFO started it. A program that was replaced by an upgrade still counts.
ours() {
    here "$1" || return 1
    program=$(readlink "$proc/$1/exe" 2>/dev/null) || return 1
    program=${program% (deleted)}
    case $program in
        "$root$data"/* | "$root$real_data"/* | "$root$prefix/bin/rfo") return 0 ;;
    esac
    case $(arguments "$1") in
        *containerd-shim*" -address $root/run/rfo/"*) return 0 ;;
    esac
    return 1
}

arguments() { tr '\0' ' ' 2>/dev/null <"$proc/$1/cmdline"; }

our_processes() {
    for pid in $(processes); do
        ours "$pid" && printf '%s\n' "$pid"
    done
}

is_shim() { case $(readlink "$proc/$1/exe" 2>/dev/null) in */containerd-shim*) return 0 ;; *) return 1 ;; esac; }

# family PID...: these and all their descendants, parents first so that none starts another child in the meantime, but
# nothing from this script downwards.
family() {
    grep '^PPid:' /dev/null "$proc"/[0-9]*/status 2>/dev/null |
        sed 's|.*/\([0-9]*\)/status:PPid:[^0-9]*|\1 |' |
        awk -v given="$*" -v self=$$ '
            function add(pid) { print pid; return member[pid] = 1 }
            { parent[$1] = $2 }
            END {
                count = split(given, pids, " ")
                for (i = 1; i <= count; i++) add(pids[i])
                do {
                    grown = 0
                    for (pid in parent)
                        if (pid != self && !(pid in member) && (parent[pid] in member)) grown = add(pid)
                } while (grown)
            }'
}

send() { # SIGNAL PID...
    signal=$1
    shift
    for pid in "$@"; do
        [ "$pid" = $$ ] || run kill -s "$signal" "$pid" 2>/dev/null
    done
}

# First those that would start others again, politely; then all that is left with its containers.
stop_processes() {
    if find_tool systemctl; then
        for unit in rfo-server rfo-agent; do
            run "$tool" stop "$unit.service" 2>/dev/null
        done
    fi
    for pid in $(our_processes); do
        is_shim "$pid" || send TERM "$pid"
    done
    tries=0
    while [ $tries -lt 10 ]; do
        left=$(our_processes)
        [ "$left" ] || return 0
        leaders=$(for pid in $left; do is_shim "$pid" || echo "$pid"; done)
        if [ "$dry" ] || [ -z "$leaders" ] || [ $tries -ge 5 ]; then
            # shellcheck disable=SC2046,SC2086 # process numbers, one word each
            send KILL $(family $left)
            [ "$dry" ] && return 0
        fi
        tries=$((tries + 1))
        sleep 1
    done
    left=$(our_processes)
    [ -z "$left" ] || warn "these processes do not end: $(echo "$left" | tr '\n' ' ')"
}

# Another Kubernetes, running or stopped with its containers alive.
find_neighbour() {
    for pid in $(processes); do
        if ! here "$pid" || ours "$pid"; then continue; fi
        words=$(arguments "$pid")
        name=${words%% *}
        case ${name##*/} in
            kubelet | kubelite | k3s | k3s-server | k3s-agent | rke2 | k0s) ;;
            containerd-shim*) case $words in *" -namespace k8s.io "*) ;; *) continue ;; esac ;;
            *) continue ;;
        esac
        neighbour="${name##*/} (process $pid)"
        return 0
    done
    return 1
}

# mounts: "TYPE ESCAPED-PATH" of each mount, the latest first, since later ones lie on top.
mounts() {
    awk '{
        for (i = 6; i < NF; i++) if ($i == "-") break
        line[NR] = $(i + 1) " " $5
    } END { for (i = NR; i > 0; i--) print line[i] }' "$proc/self/mountinfo" 2>/dev/null
}

# The directories themselves are never unmounted: they may be disks of the administrator. Below the data directory that
# holds for whole file systems too (a disk for etcd, say); RFO itself mounts only the kinds named there.
unmount_all() {
    list=$(mounts)
    while read -r kind escaped; do
        path=$(printf '%b' "$(printf '%s' "$escaped" | sed 's/\\\([0-7][0-7][0-7]\)/\\0\1/g')")
        case $path in
            /run/rfo/*) ;;
            "$data"/* | "$real_data"/*) case $kind in overlay | tmpfs | proc | nsfs) ;; *) continue ;; esac ;;
            /run/k3s/* | /var/lib/kubelet/pods/* | /var/lib/kubelet/plugins/* | /run/netns/cni-*)
                [ -z "$neighbour" ] || continue ;;
            *) continue ;;
        esac
        if ! find_tool umount; then
            warn "no umount: $path stays mounted"
        elif ! run "$tool" "$root$path" && ! run "$tool" -l "$root$path"; then
            warn "cannot unmount $path"
        fi
    done <<EOF
$list
EOF
}

remove_network() {
    for namespace in "$root"/run/netns/cni-*; do
        [ -e "$namespace" ] && run rm -f "$namespace"
    done
    if find_tool ip; then
        for device in "$root"/sys/class/net/*; do
            device=${device##*/}
            case $device in
                cni0 | kube-ipvs0 | cali??????????? | vxlan.calico | vxlan-v6.calico | \
                    flannel.* | flannel-v6.* | flannel-wg*)
                    run "$tool" link delete "$device" ;;
            esac
        done
    fi
    # A save that cannot be read must not become a restore of nothing.
    pattern='(^:|[ "])(KUBE-|CNI-|cali-|FLANNEL-)|"cali:|flanneld'
    for tables in iptables iptables-legacy iptables-nft ip6tables ip6tables-legacy ip6tables-nft; do
        find_tool "$tables-save" || continue
        save=$tool
        find_tool "$tables-restore" || continue
        rules=$("$save" 2>/dev/null) || continue
        printf '%s\n' "$rules" | grep -Eq "$pattern" || continue
        if [ "$dry" ]; then
            printf 'would remove from %s:\n' "$tables"
            printf '%s\n' "$rules" | grep -E "$pattern"
        else
            printf '%s\n' "$rules" | grep -Ev "$pattern" | "$tool" || warn "cannot restore $tables without RFO's rules"
        fi
    done
}

# Pod cgroups that stay make the next kubelet wait three seconds for each; only those without processes can be removed.
# What still runs in them lost its shim before. A kubepods deeper down is that of a node inside a container.
remove_cgroups() {
    for tries in 1 2 3; do
        busy=''
        for top in "$root"/sys/fs/cgroup/kubepods* "$root"/sys/fs/cgroup/*/kubepods*; do
            [ -d "$top" ] || continue
            # shellcheck disable=SC2046 # process numbers, one word each
            send KILL $(find "$top" -name cgroup.procs -exec cat {} + 2>/dev/null | sort -u)
            find "$top" -depth -type d 2>/dev/null | while read -r group; do run rmdir "$group" 2>/dev/null; done
            [ ! -d "$top" ] || busy="$busy $top"
        done
        if [ -z "$busy" ] || [ "$dry" ]; then return; fi
        [ "$tries" = 3 ] || sleep 1
    done
    warn "not empty:$busy"
}

main() {
    dry='' status=0 neighbour=''
    for argument in "$@"; do
        case $argument in
            --dry-run) dry=1 ;;
            -h | --help) usage; exit 0 ;;
            *) die "unknown option $argument; see rfo-killall.sh --help" ;;
        esac
    done
    root=${RFO_ROOT:-} data=${RFO_DATA_DIR:-/var/lib/rancher/rfo}
    case $data/ in
        *//* | */./* | */../* | / | [!/]*) die "RFO_DATA_DIR=$data: want an absolute path without . and .." ;;
        /*/*/) ;;
        *) die "RFO_DATA_DIR=$data: too near to the root" ;;
    esac
    [ -z "$root" ] || root=$(cd -P "$root" && pwd -P) || die "RFO_ROOT=$RFO_ROOT: no such directory"
    if [ -z "$root" ] && [ -z "$dry" ] && [ "$(id -u)" -ne 0 ]; then
        printf '[ERROR] must run as root: sudo %s\n' "$0" >&2
        exit 1
    fi
    proc=$root/proc
    prefix=$(cd "$(dirname "$0")/.." && pwd)
    prefix=${prefix#"$root"}
    real_data=$(cd -P "$root$data" 2>/dev/null && pwd -P) || real_data=$root$data
    real_data=${real_data#"$root"}

    say "stopping RFO's processes"
    stop_processes
    if find_neighbour; then
        say "another Kubernetes runs here, $neighbour: shared mounts, network and cgroups are left to it"
    fi
    say "unmounting"
    unmount_all
    if [ -z "$neighbour" ]; then
        say "removing pod network and cgroups"
        remove_network
        remove_cgroups
    fi
    return $status
}

main "$@"; exit $?
