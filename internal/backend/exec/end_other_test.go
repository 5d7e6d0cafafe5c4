//go:build unix && !linux

package exec_test

func adoptOrphans() {}

func serve() {}
