package webhook_test

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"ringback.dev/webhook"
)

// During a rotation a message carries one signature for each live secret.
func ExampleSign() {
	older, err := webhook.ParseSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		fmt.Println(err)
		return
	}
	newer, err := webhook.ParseSecret("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")
	if err != nil {
		fmt.Println(err)
		return
	}
	at := time.Unix(1614265330, 0) // In real life: time.Now(), on every attempt.
	body := []byte(`{"test": 2432232314}`)
	fmt.Println(webhook.Sign("msg_p5jXN8AQM9LWM0D4loKWxJek", at, body, older))
	fmt.Println(webhook.Sign("msg_p5jXN8AQM9LWM0D4loKWxJek", at, body, newer, older))
	// Output:
	// v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=
	// v1,78nXHjpFP0tVJQW5D0SBwmVyyW87BV/rL6MgfM/Bw44= v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=
}

// The errors say what is wrong, in words fit for a log.
func ExampleVerifier_Verify() {
	secret, err := webhook.ParseSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		fmt.Println(err)
		return
	}
	v := &webhook.Verifier{
		Secrets: []webhook.Secret{secret},
		Now:     func() time.Time { return time.Unix(1614265340, 0) }, // In real life leave it out.
	}
	header := http.Header{}
	header.Set(webhook.HeaderID, "msg_p5jXN8AQM9LWM0D4loKWxJek")
	header.Set(webhook.HeaderTimestamp, "1614265330")
	header.Set(webhook.HeaderSignature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")

	m, err := v.Verify(header, []byte(`{"test": 2432232314}`))
	fmt.Println(m.ID, err)

	_, err = v.Verify(header, []byte(`{"test": 1}`))
	fmt.Println(errors.Is(err, webhook.ErrSignature), err)

	header.Set(webhook.HeaderTimestamp, "1614260000")
	_, err = v.Verify(header, []byte(`{"test": 2432232314}`))
	fmt.Println(errors.Is(err, webhook.ErrTimestamp), err)
	// Output:
	// msg_p5jXN8AQM9LWM0D4loKWxJek <nil>
	// true webhook: no matching signature: wrong secret or key, or the id, timestamp or body was changed on the way
	// true webhook: timestamp not acceptable: the message is 1h29m0s old, 5m0s is allowed
}
