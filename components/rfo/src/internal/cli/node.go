package cli

import (
	"fmt"

	"github.com/rfolabs/rfo/internal/version"
)

const serverHelp = `Usage: rfo server [OPTIONS]

Runs this node as a server: supervisor on port 9345, Kubernetes API on 6443, etcd, and the kubelet with its containers.
Normally systemd starts it: systemctl enable --now rfo-server

This build does not contain the supervisor; the command says so and exits with code 69.
`

const agentHelp = `Usage: rfo agent [OPTIONS]

Joins this node to a server and runs pods. It needs two keys in /etc/rancher/rfo/config.yaml:
  server: https://SERVER:9345
  token: the content of /var/lib/rancher/rfo/server/node-token on the server
Normally systemd starts it: systemctl enable --now rfo-agent

This build does not contain the supervisor; the command says so and exits with code 69.
`

// absent answers for a command whose supervisor comes with a later release. The units do not restart on its exit code.
func absent(name string) func(Env, []string) int {
	return func(env Env, _ []string) int {
		fmt.Fprintf(env.Stderr, "rfo %s: this build (%s) does not contain the supervisor; it comes with a later release.\n"+
			"\"rfo check-config --role %s\" already tells whether this host will be ready for it.\n", name, version.Version, name)
		return exitUnavailable
	}
}
