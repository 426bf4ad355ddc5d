#!/bin/sh
# Remove RFO from this host: programs, units, configuration and data.
#
# It deletes trees as root, so each deletion passes through remove(), which refuses to go through a link or across a
# mount. What is refused is named, the rest goes on, and the script stays so that it can be run again.
set -u

usage() {
    cat <<'EOF'
Usage: rfo-uninstall.sh [--dry-run] [--purge] [--prefix DIR]

Stops RFO and removes its programs, units, configuration (/etc/rancher/rfo) and data (/var/lib/rancher/rfo). The state
of the signature check in /var/lib/rfo/trust stays, since it is what protects a later installation from a rollback.

  --dry-run      print what would be removed, and remove nothing
  --purge        remove the trust state and /etc/{default,sysconfig}/rfo-* too
  --prefix DIR   where RFO was unpacked (default: where this script is); /usr/local or a directory of /opt
  RFO_DATA_DIR   where the data is (default /var/lib/rancher/rfo)
  RFO_ROOT       work on the host mounted there, for tests

PREFIX/share/rfo/manifest.txt names the installed files, one path per line relative to PREFIX; lines with # are
comments. Without it the files of a release are removed. PREFIX/share/rfo/images.txt names bundles of images that the
installer has put elsewhere. Other programs' files in /etc/cni and /opt/cni are left, and firewalld stays as it is.

Exit codes: 0 removed, 1 something is left (run it again), 64 wrong usage.
EOF
}

say() { printf '[INFO]  %s\n' "$*"; }
warn() { printf '[WARN]  %s\n' "$*" >&2; status=1; }
die() { printf '[ERROR] %s\n' "$*" >&2; exit 64; }

run() {
    if [ "$dry" ]; then printf 'would run: %s\n' "$*"; else "$@"; fi
}

# With RFO_ROOT only tools below it act, so that no test touches its machine.
find_tool() {
    tool=$(command -v "$1") || return 1
    case $tool in "$root"/*) ;; *) [ -z "$root" ] ;; esac
}

# plain PATH: absolute, with no part that means another place.
plain() {
    case $1/ in
        [!/]* | *//* | */./* | */../*) return 1 ;;
    esac
    case $1 in *[[:cntrl:]]*) return 1 ;; esac
}

# A package's files are the package manager's, and a script that was copied elsewhere must not take its new home for
# the prefix.
check_prefix() {
    plain "$prefix" || die "--prefix $prefix: want an absolute path without . and .."
    case $prefix in
        /usr) die "this RFO was installed by packages: dnf remove rfo-server rfo-agent rfo-common" ;;
        /usr/local | /opt/?*) ;;
        *) die "prefix $prefix is neither /usr/local nor in /opt; name the right one with --prefix" ;;
    esac
    where=$(cd -P "$root$prefix" 2>/dev/null && pwd -P) || die "prefix $prefix does not exist"
    case $where in
        "$root$prefix") ;;
        "$root/var/usrlocal") prefix=/var/usrlocal ;; # where image-based systems keep /usr/local
        *) die "prefix $prefix is a link to $where; name that directory with --prefix" ;;
    esac
}

check_data() {
    plain "$data" || die "RFO_DATA_DIR=$data: want an absolute path without . and .."
    case $data in
        /etc/* | /usr/* | /boot/* | /dev/* | /proc/* | /sys/* | /run/* | /home/* | /root/* | \
            /var/lib | /var/lib/rancher | /var/lib/rfo | /var/log | /var/run | /var/cache)
            die "RFO_DATA_DIR=$data belongs to the system" ;;
        /?*/?*) ;;
        *) die "RFO_DATA_DIR=$data: too near to the root" ;;
    esac
    case $prefix/ in "$data"/*) die "RFO_DATA_DIR=$data holds the program itself" ;; esac
}

# mounted_in PATH: whether something is mounted there or below, or that cannot be known. mountinfo writes white space
# in octal.
mounted_in() {
    [ -r "$root/proc/self/mountinfo" ] || return 0
    escaped=$(printf '%s' "$1" | sed 's/\\/\\134/g; s/ /\\040/g')
    P=$escaped awk '$5 == ENVIRON["P"] || index($5, ENVIRON["P"] "/") == 1 { found = 1 } END { exit !found }' \
        "$root/proc/self/mountinfo"
}

# remove PATH: delete a file or a tree. A link is deleted itself, whatever it points to.
remove() {
    target=$root$1
    [ -e "$target" ] || [ -L "$target" ] || return 0
    above=${target%/*}
    if [ "$(cd -P "$above" 2>/dev/null && pwd -P)" != "$above" ]; then
        warn "$1 stays: a directory above it is a link to another place"
    elif mounted_in "$1"; then
        warn "$1 stays: something is mounted in it; see findmnt, unmount it and run this again"
    elif [ -d "$target" ] && [ ! -L "$target" ]; then
        run rm -rf -- "$target" || warn "cannot remove $1"
    else
        run rm -f -- "$target" || warn "cannot remove $1"
    fi
}

# remove_empty DIR...: directories that others may use as well.
remove_empty() {
    for directory in "$@"; do
        if [ -d "$root$directory" ] && [ ! -L "$root$directory" ]; then
            run rmdir "$root$directory" 2>/dev/null
        fi
    done
}

manifest_entry() { # LINE: set $entry, or fail for a line that names nothing
    entry=${1%"$(printf '\r')"}
    case $entry in '' | \#*) return 1 ;; esac
}

# One bad line spoils the manifest: better nothing removed than the wrong thing.
check_manifest() {
    while read -r line || [ "$line" ]; do
        manifest_entry "$line" || continue
        plain "/$entry" || die "$manifest: $entry leads out of $prefix"
        [ ! -d "$root$prefix/$entry" ] || [ -L "$root$prefix/$entry" ] || die "$manifest: $entry is a directory"
    done <"$root$manifest"
}

# Bundles of images may lie where the administrator wanted them; nothing else is looked for there.
check_images() {
    while read -r line || [ "$line" ]; do
        plain "$line" || die "$images: $line is no place of a bundle of images"
        case ${line##*/} in
            rfo-images.linux-*.tar.zst | rfo-images.linux-*.txt) ;;
            *) die "$images: $line is no bundle of images" ;;
        esac
    done <"$root$images"
}

# installed_files: paths below the prefix, this script not among them.
installed_files() {
    if [ -f "$root$manifest" ]; then
        while read -r line || [ "$line" ]; do
            manifest_entry "$line" && printf '%s\n' "$entry"
        done <"$root$manifest"
        printf '%s\n' share/rfo/manifest.txt
    else
        for name in server agent; do
            printf 'lib/systemd/system/rfo-%s.%s\n' $name service $name env
        done
        printf '%s\n' bin/rfo bin/rfo-killall.sh share/rfo
    fi
}

stop() {
    killall=$root$prefix/bin/rfo-killall.sh
    if [ -f "$killall" ]; then
        if ! RFO_DATA_DIR=$data sh "$killall" ${dry:+--dry-run}; then
            warn "rfo-killall.sh could not stop everything; nothing was removed"
            return 1
        fi
    else
        say "no $prefix/bin/rfo-killall.sh: what runs is not stopped"
    fi
    if find_tool systemctl; then
        run "$tool" disable rfo-server.service rfo-agent.service 2>/dev/null
        run "$tool" reset-failed rfo-server.service rfo-agent.service 2>/dev/null
    fi
    return 0
}

remove_state() {
    remove /etc/rancher/rfo
    remove "$data"
    remove /run/rfo
    for kept in "$root"/var/lib/rfo/* "$root"/var/lib/rfo/.[!.]*; do
        case ${kept##*/} in
            trust) [ "$purge" ] || continue ;;
        esac
        remove "${kept#"$root"}"
    done
    if [ "$purge" ]; then
        for name in server agent; do
            remove "/etc/default/rfo-$name"
            remove "/etc/sysconfig/rfo-$name"
        done
    fi
    for other in /etc/rancher/k3s /etc/rancher/rke2 /var/lib/rancher/k3s /var/lib/rancher/rke2 /var/lib/k0s \
        /usr/bin/kubelet /usr/local/bin/kubelet; do
        if [ -e "$root$other" ]; then
            say "$other is another Kubernetes: the directories that it shares are left to it"
            return
        fi
    done
    for shared in /etc/rancher/node /var/lib/kubelet /var/lib/cni /var/log/pods /var/log/containers /run/flannel; do
        remove $shared
    done
    remove_empty /etc/rancher /var/lib/rancher /var/lib/rfo
}

remove_images() {
    [ -f "$root$images" ] || return 0
    while read -r line || [ "$line" ]; do
        remove "$line"
    done <"$root$images"
}

remove_program() {
    for name in server agent; do
        for file in "rfo-$name.service" "rfo-$name.service.d" "multi-user.target.wants/rfo-$name.service"; do
            remove "/etc/systemd/system/$file"
        done
    done
    files=$(installed_files)
    while read -r file; do
        [ "$file" = bin/rfo-uninstall.sh ] || remove "$prefix/$file"
    done <<EOF
$files
EOF
    remove "$prefix/.rfo-install"
    remove_empty "$prefix/share/rfo"
    if find_tool systemctl; then run "$tool" daemon-reload; fi
}

main() {
    dry='' purge='' status=0
    root=${RFO_ROOT:-} data=${RFO_DATA_DIR:-/var/lib/rancher/rfo}
    [ -z "$root" ] || root=$(cd -P "$root" && pwd -P) || die "RFO_ROOT=$RFO_ROOT: no such directory"
    prefix=$(cd "$(dirname "$0")/.." && pwd)
    prefix=${prefix#"$root"}
    while [ $# -gt 0 ]; do
        case $1 in
            --dry-run) dry=1 ;;
            --purge) purge=1 ;;
            --prefix) [ $# -gt 1 ] || die "--prefix needs a directory"; prefix=$2; shift ;;
            --prefix=*) prefix=${1#*=} ;;
            -h | --help) usage; exit 0 ;;
            *) die "unknown option $1; see rfo-uninstall.sh --help" ;;
        esac
        shift
    done
    check_prefix
    check_data
    manifest=$prefix/share/rfo/manifest.txt images=$prefix/share/rfo/images.txt
    [ ! -f "$root$manifest" ] || check_manifest
    [ ! -f "$root$images" ] || check_images
    if [ -z "$root" ] && [ -z "$dry" ] && [ "$(id -u)" -ne 0 ]; then
        printf '[ERROR] must run as root: sudo %s\n' "$0" >&2
        exit 1
    fi
    stop || return 1
    remove_images
    remove /etc/NetworkManager/conf.d/rfo.conf
    remove_state
    if [ $status -eq 0 ]; then
        remove_program
    fi
    if [ $status -eq 0 ]; then
        remove "$prefix/bin/rfo-uninstall.sh"
        case $prefix in
            /opt/*)
                remove_empty "$prefix/bin" "$prefix/lib/systemd/system" "$prefix/lib/systemd" "$prefix/lib" \
                    "$prefix/share" "$prefix" ;;
        esac
    fi
    if [ $status -ne 0 ]; then
        say "something is left: see the warnings above"
    elif [ -z "$dry" ]; then
        say "RFO is removed"
    fi
    return $status
}

main "$@"; exit $?
