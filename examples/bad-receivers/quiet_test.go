package main

import (
	"io"
	"log"
)

// quiet drops what the server says of the panics that some receivers are about.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }
