package ringback

// State tells how far a job has come. The words are those of the store; each
// surface has its own names for them on the wire.
type State string

// The states of a job. Pending and Running are under way, the others final.
const (
	Pending State = "pending"
	Running State = "running"
	// Completed is the ordinary good end.
	Completed State = "completed"
	// RequiresAction ends an interaction whose model wants a function called.
	RequiresAction State = "requires_action"
	// Incomplete ends an interaction that was cut at its output limit.
	Incomplete State = "incomplete"
	// BudgetExceeded ends an interaction for which there is no money left.
	BudgetExceeded State = "budget_exceeded"
	Failed         State = "failed"
	Cancelled      State = "cancelled"
	// Expired ends a batch that was not done in time.
	Expired State = "expired"
)

// Final reports whether nothing can follow s.
func (s State) Final() bool { return s != Pending && s != Running }

// CanBecome reports whether a job in state s may be moved to next. A running
// job may go back to pending: its worker died or stopped.
func (s State) CanBecome(next State) bool {
	switch s {
	case Pending:
		return next == Running || next.Final()
	case Running:
		return next == Pending || next.Final()
	default:
		return false
	}
}
