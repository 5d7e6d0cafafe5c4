package edge

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"ringback.dev/inbox"
)

// metrics are what Prometheus sees. Labels are names of the configuration and words
// of closed lists.
type metrics struct {
	registry *prometheus.Registry
	store    inbox.Desk

	requests *prometheus.CounterVec
	accepts  prometheus.Histogram
	events   *prometheus.CounterVec
	unrouted *prometheus.CounterVec
	attempts *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	looks    *prometheus.CounterVec
	missed   *prometheus.CounterVec
	reloads  *prometheus.CounterVec
	loaded   prometheus.Gauge
	entries  *prometheus.Desc
}

func newMetrics(store inbox.Desk) *metrics {
	m := &metrics{registry: prometheus.NewRegistry(), store: store,
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "ringback_edge_requests_total",
			Help: "Messages by source and what was answered: accepted, double, unverified, malformed, forbidden, too_large, unavailable; not_found has no source."}, []string{"source", "answer"}),
		accepts: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "ringback_edge_accept_seconds",
			Help: "Time from a request's header to its answer 2xx.", Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, 1, 10}}),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "ringback_edge_events_total",
			Help: "Events whose actions were stored, by source."}, []string{"source"}),
		unrouted: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "ringback_edge_events_unrouted_total",
			Help: "Those of them that no route matched."}, []string{"source"}),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "ringback_edge_attempts_total",
			Help: "Attempts of actions by action, kind, reason, and what follows: done, pending (another attempt) or dead."}, []string{"action", "kind", "reason", "state"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "ringback_edge_attempt_seconds",
			Help: "Time that attempts took, by kind.", Buckets: []float64{.005, .025, .1, .5, 1, 5, 15, 60, 300, 900}}, []string{"kind"}),
		looks: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "ringback_edge_reconciles_total",
			Help: "Looks at servers for what did not arrive, by source and result: good or failed."}, []string{"source", "result"}),
		missed: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "ringback_edge_reconciled_total",
			Help: "Events that did not arrive and were had so, by source."}, []string{"source"}),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "ringback_edge_reloads_total",
			Help: "Reloads of the configuration by result: good or refused."}, []string{"result"}),
		loaded: prometheus.NewGauge(prometheus.GaugeOpts{Name: "ringback_edge_config_loaded_timestamp_seconds",
			Help: "When the configuration in use was read."}),
		entries: prometheus.NewDesc("ringback_edge_inbox_entries", "Entries of the inbox by kind (event or action), name and state (pending, done, dead).", []string{"kind", "name", "state"}, nil),
	}
	m.registry.MustRegister(m.requests, m.accepts, m.events, m.unrouted, m.attempts, m.seconds, m.looks, m.missed, m.reloads, m.loaded, m,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.loaded.SetToCurrentTime()
	return m
}

// request counts a message by its answer.
func (m *metrics) request(source string, status int, first bool, took time.Duration) {
	word := "unverified"
	switch {
	case status/100 == 2 && first:
		word = "accepted"
	case status/100 == 2:
		word = "double"
	case status == http.StatusForbidden:
		word = "forbidden"
	case status == http.StatusRequestEntityTooLarge:
		word = "too_large"
	case status >= 500:
		word = "unavailable"
	case status != http.StatusUnauthorized:
		word = "malformed"
	}
	m.requests.WithLabelValues(source, word).Inc()
	if status/100 == 2 {
		m.accepts.Observe(took.Seconds())
	}
}

// unknown counts a request for a path that no source has.
func (m *metrics) unknown() { m.requests.WithLabelValues("", "not_found").Inc() }

// planned counts an event whose actions are stored.
func (m *metrics) planned(source string, actions int) {
	m.events.WithLabelValues(source).Inc()
	if actions == 0 {
		m.unrouted.WithLabelValues(source).Inc()
	}
}

// attempt counts an attempt.
func (m *metrics) attempt(a *action, why reason, o inbox.Outcome) {
	m.attempts.WithLabelValues(a.name, a.kind, string(why), string(o.State)).Inc()
	m.seconds.WithLabelValues(a.kind).Observe(o.At.Sub(o.Started).Seconds())
}

// look counts a look for what did not arrive, and what it found.
func (m *metrics) look(source string, found int, err error) {
	result := "good"
	if err != nil {
		result = "failed"
	}
	m.looks.WithLabelValues(source, result).Inc()
	m.missed.WithLabelValues(source).Add(float64(found))
}

// reload counts a reload.
func (m *metrics) reload(err error, now time.Time) {
	if err != nil {
		m.reloads.WithLabelValues("refused").Inc()
		return
	}
	m.reloads.WithLabelValues("good").Inc()
	m.loaded.Set(float64(now.UnixMicro()) / 1e6)
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(to chan<- *prometheus.Desc) { to <- m.entries }

// Collect implements prometheus.Collector: it counts the inbox.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	counts, err := m.store.Counts(ctx)
	if err != nil {
		to <- prometheus.NewInvalidMetric(m.entries, err)
		return
	}
	for name, states := range counts {
		kind := "event"
		if strings.Contains(name, "/") {
			kind = "action"
		}
		for _, s := range []inbox.State{inbox.Pending, inbox.Done, inbox.Dead} {
			to <- prometheus.MustNewConstMetric(m.entries, prometheus.GaugeValue, float64(states[s]), kind, name, string(s))
		}
	}
}
