package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is the release; a build from a checkout adds its revision.
const version = "0.1.0"

type versionCommand struct{}

func (versionCommand) Run(s *streams) error {
	revision := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, set := range info.Settings {
			if set.Key == "vcs.revision" {
				revision = " (" + set.Value[:min(12, len(set.Value))] + ")"
			}
		}
	}
	fmt.Fprintf(s.out, "ringback %s%s %s %s/%s\n", version, revision, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return nil
}
