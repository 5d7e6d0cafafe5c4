package bus_test

import (
	"testing"

	"ringback.dev/internal/bus"
)

func TestBus(t *testing.T) {
	var b bus.Bus
	b.Publish(bus.Hint{Project: "p", Kind: bus.Event, ID: "nobody listens"})
	mine, stop := b.Listen("p")
	other, stopOther := b.Listen("q")
	want := bus.Hint{Project: "p", Kind: bus.Delivery, ID: "msg_1"}
	b.Publish(want)
	if got := <-mine; got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	// A listener that reads nothing holds nobody up.
	for range 10_000 {
		b.Publish(want)
	}
	if len(mine) == 0 || len(mine) == 10_000 {
		t.Errorf("%d hints wait", len(mine))
	}
	if len(other) != 0 {
		t.Error("a hint went to another project")
	}
	stop()
	stop() // A second time changes nothing.
	stopOther()
	waiting := len(mine)
	b.Publish(want)
	if len(mine) != waiting {
		t.Error("a hint arrived after stop")
	}
}

// TestStreamHints: those about a job's stream go to who listens to it, and one
// stands for many.
func TestStreamHints(t *testing.T) {
	var b bus.Bus
	project, stopProject := b.Listen("p")
	defer stopProject()
	stream, stop := b.ListenStream("v1_1")
	other, stopOther := b.ListenStream("v1_2")
	defer stopOther()
	for range 3 {
		b.Publish(bus.Hint{Project: "p", Kind: bus.Stream, ID: "v1_1"})
	}
	if len(stream) != 1 || len(project) != 0 || len(other) != 0 {
		t.Errorf("%d hints for the stream, %d for the project, %d for another", len(stream), len(project), len(other))
	}
	stop()
	<-stream
	b.Publish(bus.Hint{Project: "p", Kind: bus.Stream, ID: "v1_1"})
	if len(stream) != 0 {
		t.Error("a hint arrived after stop")
	}
}
