package registry

import (
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"
)

func TestChallenges(t *testing.T) {
	type params = map[string]string
	for _, tt := range []struct {
		values []string
		want   []challenge
	}{
		{[]string{`Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="a:b:pull,push"`}, []challenge{
			{"bearer", params{"realm": "https://auth.docker.io/token", "service": "registry.docker.io", "scope": "a:b:pull,push"}},
		}},
		{[]string{`Basic realm="a\"b\\c", Bearer Realm=x , error=y`, `basic`}, []challenge{
			{"basic", params{"realm": `a"b\c`}}, {"bearer", params{"realm": "x", "error": "y"}}, {"basic", params{}},
		}},
		{[]string{`Negotiate abc==, Basic realm="x"`}, []challenge{{"negotiate", params{}}, {"basic", params{"realm": "x"}}}},
		{[]string{`Bearer realm="a",realm="b"`}, nil},
		{[]string{`Bearer realm="a`}, nil},
		{[]string{`Bearer realm=`}, []challenge{{"bearer", params{}}}}, // a token68
		{[]string{``, ` ,, `, `"`, `=`, "\x00"}, nil},
		{[]string{`Basic realm="x", Bearer realm="`}, []challenge{{"basic", params{"realm": "x"}}}},
	} {
		if got := parseChallenges(tt.values); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%q: %+v", tt.values, got)
		}
	}
}

func FuzzChallenges(f *testing.F) {
	f.Add(`Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="a:b:pull,push"`)
	f.Add(`Basic realm="a\"b", Bearer x = y,Negotiate abc==`)
	f.Fuzz(func(t *testing.T, s string) {
		for _, c := range parseChallenges([]string{s}) {
			if c.scheme == "" || strings.ContainsAny(c.scheme, " ,\"=") {
				t.Errorf("%q: scheme %q", s, c.scheme)
			}
			// What was read, written again, is read as the same.
			text := c.scheme + " "
			for name, value := range c.params {
				text += name + `="` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value) + `",`
			}
			if again := parseChallenges([]string{text}); len(again) != 1 || !reflect.DeepEqual(again[0], c) {
				t.Errorf("%q: %+v is written %q and read %+v", s, c, text, again)
			}
		}
	})
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for s, want := range map[string]time.Duration{
		"":                              0,
		"5":                             5 * time.Second,
		" 7 ":                           7 * time.Second,
		"-5":                            0,
		"+5":                            0,
		"1e9":                           0,
		"99999999999999999999":          0,
		"Fri, 02 Jan 2026 03:04:35 GMT": 30 * time.Second,
		"Fri, 02 Jan 2026 03:04:00 GMT": 0,
	} {
		if got := retryAfter(s, now); got != want {
			t.Errorf("%q: %v, want %v", s, got, want)
		}
	}
}

func FuzzHeaders(f *testing.F) {
	f.Add("bytes 5-9/10")
	f.Add("bytes 0-0/*")
	f.Add("120")
	f.Add("Fri, 02 Jan 2026 03:04:35 GMT")
	f.Add("http://[fe80::1%25lo]/x")
	at, _ := url.Parse("https://registry.example/v2/")
	f.Fuzz(func(t *testing.T, s string) {
		if first, total, ok := parseContentRange(s); ok && (first < 0 || total < -1 || total >= 0 && first >= total) {
			t.Errorf("%q: %d of %d", s, first, total)
		}
		if d := retryAfter(s, time.Unix(0, 0)); d < 0 {
			t.Errorf("%q: %v", s, d)
		}
		if to, err := forbidLoopback.next(at, s); err == nil {
			if to.Scheme != "https" || to.Host == "" || to.User != nil || isLoopbackHost(to.Hostname()) {
				t.Errorf("%q: %s", s, to)
			}
		}
		if line := OneLine(s); len(line) > 310 || strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%q: %q", s, line)
		}
	})
}
