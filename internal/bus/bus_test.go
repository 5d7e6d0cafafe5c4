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

// TestParts: those of a job's stream go to who listens to it. A listener that is
// slow loses some, and sees it.
func TestParts(t *testing.T) {
	var b bus.Bus
	project, stopProject := b.Listen("v1_1")
	defer stopProject()
	parts, stop := b.ListenParts("v1_1")
	other, stopOther := b.ListenParts("v1_2")
	defer stopOther()
	for n := range int64(100) {
		b.PublishPart("v1_1", bus.Part{First: n + 1, Last: n + 1, Data: []byte("x")})
	}
	if len(parts) == 0 || len(parts) == 100 || len(project) != 0 || len(other) != 0 {
		t.Errorf("%d parts of the stream, %d hints, %d parts of another", len(parts), len(project), len(other))
	}
	if p := <-parts; p.First != 1 || string(p.Data) != "x" {
		t.Errorf("got %+v first", p)
	}
	stop()
	waiting := len(parts)
	b.PublishPart("v1_1", bus.Part{First: 101})
	if len(parts) != waiting {
		t.Error("a part arrived after stop")
	}
}
