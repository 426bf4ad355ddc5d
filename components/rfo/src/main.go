// Command rfo is the node program of RFO, a Kubernetes distribution for openEuler.
package main

import (
	"os"

	"github.com/rfolabs/rfo/internal/cli"
)

func main() {
	os.Exit(cli.Main(cli.Env{
		Stdout:   os.Stdout,
		Stderr:   os.Stderr,
		Colour:   cli.WantsColour(os.Stdout, os.Getenv),
		Hostroot: "/",
	}, os.Args[1:]))
}
