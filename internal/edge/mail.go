package edge

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"net/smtp"
	"net/textproto"
	"slices"
	"strings"
	"time"

	"ringback.dev/internal/egress"
)

// mailer sends mail over SMTP (RFC 5321).
type mailer struct {
	address, host  string
	mode           string
	user, password string
	from           *mail.Address
	client         *outside
}

func (f *file) mailServers(s *setup, common *outside) map[string]*mailer {
	found := make(map[string]*mailer)
	for _, name := range slices.Sorted(maps.Keys(f.Mail)) {
		c, key := f.Mail[name], "mail."+name
		m := &mailer{address: c.Server, mode: c.TLS, user: c.User, password: f.secret(key+".password", c.PasswordEnv, c.PasswordFile), client: f.other(s, key, c.Egress, common)}
		var err error
		if m.host, _, err = net.SplitHostPort(c.Server); err != nil || m.host == "" {
			f.at(key+".server", "%q is not HOST:PORT, for example smtp.example.com:587", c.Server)
		}
		if m.mode == "" {
			m.mode = "starttls"
		}
		if !slices.Contains([]string{"starttls", "tls", "none"}, m.mode) {
			f.at(key+".tls", "%q is none of starttls, tls, none", c.TLS)
		}
		if (c.User == "") != (c.PasswordEnv == "" && c.PasswordFile == "") {
			f.at(key, "user and password belong together")
		}
		if m.mode == "none" && c.User != "" && !slices.Contains([]string{"localhost", "127.0.0.1", "::1"}, m.host) {
			f.at(key+".tls", "a password must not be sent without TLS")
		}
		if from := f.addresses(key+".from", List{c.From}); len(from) == 1 {
			m.from = from[0]
		}
		found[name] = m
	}
	return found
}

// letter is a notify action by mail.
type letter struct {
	*mailer
	to            []*mail.Address
	subject, text *template
}

func (k *kit) letter(key string, c *Notify, text *template) doer {
	l := &letter{mailer: k.mailServer(key, c.Mail), to: k.addresses(key+".to", c.To), text: text}
	if len(c.To) == 0 {
		k.at(key+".to", "it is required: one address or a list")
	}
	if c.Egress != nil {
		k.at(key+".egress", "rules for mail belong to mail.%s.egress", c.Mail)
	}
	subject := c.Subject
	if subject == "" {
		subject = "{{ type }}"
	}
	l.subject = k.text(key+".subject", subject)
	return l
}

func (k *kit) mailServer(key, name string) *mailer {
	m := k.mailers[name]
	if m == nil {
		k.at(key+".mail", "%q is not among mail; add it there, with server and from", name)
	}
	return m
}

func (l *letter) String() string {
	var to []string
	for _, a := range l.to {
		to = append(to, a.Address)
	}
	return "mail to " + strings.Join(to, ", ")
}

func (l *letter) do(ctx context.Context, t *task) result {
	subject, err := l.subject.show(t.Event, nil)
	if err != nil {
		return unfit(fmt.Errorf("subject: %w", err))
	}
	text, err := message(t, l.text, nil)
	if err != nil {
		return unfit(fmt.Errorf("text: %w", err))
	}
	if err := l.send(ctx, l.compose(t, subject, text, time.Now())); err != nil {
		var answer *textproto.Error
		if errors.As(err, &answer) {
			r := failed
			// A password that is not good (RFC 4954 §6) is not the message's fault.
			if answer.Code/100 == 5 && !slices.Contains([]int{530, 534, 535, 538}, answer.Code) {
				r = refused
			}
			return failure(r, "the mail server answered %d: %s", answer.Code, excerpt([]byte(answer.Msg)))
		}
		return unreached(err, l.client.key)
	}
	return success("the mail server has it")
}

// compose writes a message (RFC 5322). Its id is the same at every attempt, so
// that a mailbox can tell doubles.
func (l *letter) compose(t *task, subject, text string, now time.Time) []byte {
	var b bytes.Buffer
	_, domain, _ := strings.Cut(l.from.Address, "@")
	var to []string
	for _, a := range l.to {
		to = append(to, a.String())
	}
	subject = strings.Join(strings.Fields(headerValue(subject)), " ")
	for _, h := range [...]struct{ name, value string }{
		{"From", l.from.String()}, {"To", strings.Join(to, ",\r\n ")}, {"Subject", strings.ReplaceAll(mime.QEncoding.Encode("utf-8", cut(subject, 200)), "?= =?", "?=\r\n =?")},
		{"Date", now.Format(time.RFC1123Z)}, {"Message-ID", "<" + idempotencyKey(t) + "@" + domain + ">"},
		{"Auto-Submitted", "auto-generated"}, {"MIME-Version", "1.0"},
		{"Content-Type", "text/plain; charset=utf-8"}, {"Content-Transfer-Encoding", "quoted-printable"},
	} {
		fmt.Fprintf(&b, "%s: %s\r\n", h.name, h.value)
	}
	b.WriteString("\r\n")
	q := quotedprintable.NewWriter(&b)
	_, _ = q.Write([]byte(cut(text, 100_000) + "\n")) // A bytes.Buffer takes everything.
	_ = q.Close()
	return b.Bytes()
}

// send hands a message to the server.
func (l *letter) send(ctx context.Context, message []byte) error {
	transport, ok := l.client.Transport.(*egress.Transport)
	if !ok {
		return errors.New("the rules of egress have no transport")
	}
	raw, err := transport.Dial(ctx, "tcp", l.address)
	if err != nil {
		return err
	}
	defer raw.Close()
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) }) // Wakes whoever reads or writes.
	defer stop()
	secure := &tls.Config{ServerName: l.host, MinVersion: tls.VersionTLS12, RootCAs: l.client.options.RootCAs}
	c := raw
	if l.mode == "tls" {
		c = tls.Client(raw, secure)
	}
	client, err := smtp.NewClient(c, l.host)
	if err != nil {
		return err
	}
	if l.mode == "starttls" {
		if ok, _ := client.Extension("STARTTLS"); !ok {
			return errors.New("the mail server has no STARTTLS")
		}
		if err := client.StartTLS(secure); err != nil {
			return err
		}
	}
	if l.user != "" {
		if err := client.Auth(smtp.PlainAuth("", l.user, l.password, l.host)); err != nil {
			return err
		}
	}
	if err := client.Mail(l.from.Address); err != nil {
		return err
	}
	for _, a := range l.to {
		if err := client.Rcpt(a.Address); err != nil {
			return err
		}
	}
	w, err := client.Data()
	if err != nil {
		return err
	}
	if _, err := w.Write(message); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	_ = client.Quit() // The message is accepted, whatever becomes of the connection.
	return nil
}
