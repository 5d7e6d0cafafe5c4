package examine

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
)

// JUnit writes the report in the form that CI systems read.
func (r *Report) JUnit(w io.Writer) error {
	type message struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
	type testCase struct {
		Class   string   `xml:"classname,attr"`
		Name    string   `xml:"name,attr"`
		Seconds string   `xml:"time,attr"`
		Failure *message `xml:"failure,omitempty"`
		Skipped *message `xml:"skipped,omitempty"`
	}
	suite := struct {
		XMLName  xml.Name   `xml:"testsuite"`
		Name     string     `xml:"name,attr"`
		Tests    int        `xml:"tests,attr"`
		Failures int        `xml:"failures,attr"`
		Skipped  int        `xml:"skipped,attr"`
		Seconds  string     `xml:"time,attr"`
		Cases    []testCase `xml:"testcase"`
	}{Name: "ringback examine " + r.URL, Tests: len(r.Results), Failures: r.Failed, Skipped: r.NotJudged, Seconds: fmt.Sprintf("%.3f", r.Millis/1000)}
	for _, x := range r.Results {
		c := testCase{Class: x.Group, Name: x.Name, Seconds: fmt.Sprintf("%.3f", x.Millis/1000)}
		switch x.Verdict {
		case Fail:
			c.Failure = &message{x.Reason, strings.Join([]string{"sent: " + x.Sent, "right: " + x.Want, "came back: " + x.Got, "why: " + x.Why, "how: " + x.Fix}, "\n")}
		case NotJudged:
			c.Skipped = &message{Message: x.Reason}
		}
		suite.Cases = append(suite.Cases, c)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(suite); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}
