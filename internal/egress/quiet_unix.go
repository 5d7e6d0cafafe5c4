//go:build unix

package egress

import (
	"net"
	"syscall"
)

// quietness makes a function that reports whether a kept connection is open and
// nothing waits on it. What waits was not asked for: the end of the connection,
// or an answer such as the 408 that some servers send before they close, which
// the next request must not take for its own. It costs one system call that does
// not wait. Connections other than sockets always count as quiet.
func quietness(c net.Conn) func() bool {
	s, ok := c.(syscall.Conn)
	if !ok {
		return func() bool { return true }
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return func() bool { return false }
	}
	var peeked error
	one := make([]byte, 1)
	peek := func(fd uintptr) bool {
		_, _, peeked = syscall.Recvfrom(int(fd), one, syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		return true // Never waits.
	}
	return func() bool {
		return raw.Read(peek) == nil && (peeked == syscall.EAGAIN || peeked == syscall.EWOULDBLOCK || peeked == syscall.EINTR)
	}
}
