package container

import (
	"reflect"
	"testing"
)

const (
	passwd = "root:x:0:0:root:/root:/bin/sh\nmail:x:8:12:mail:/var/mail:/sbin/nologin\n1234:x:77:78::/odd:/bin/sh\nbroken line\nhomeless:x:9:9:::\n" +
		"wide:x:4294967296:5::/:\nword:x:zero:5::/:\nempty:x::5::/:\n"
	group = "root:x:0:root\nmail:x:12:\nwheel:x:10:root,mail\nvideo:x:27:mail\nwide:x:4294967296:mail\n"
)

func TestLookupUser(t *testing.T) {
	for _, c := range []struct {
		summary, spec string
		more          []string
		want          User
	}{
		{"Nobody in particular is root", "", nil, User{Home: "/root", Groups: []uint32{0, 10}}},
		{"A name, with its groups", "mail", nil, User{UID: 8, GID: 12, Home: "/var/mail", Groups: []uint32{12, 10, 27}}},
		{"An id that has an entry", "8", nil, User{UID: 8, GID: 12, Home: "/var/mail", Groups: []uint32{12, 10, 27}}},
		{"An id that has none", "1000", nil, User{UID: 1000, Home: "/", Groups: []uint32{0}}},
		{"An id and a group's id", "1000:1001", nil, User{UID: 1000, GID: 1001, Home: "/", Groups: []uint32{1001}}},
		{"A group by its name is the only one", "mail:wheel", nil, User{UID: 8, GID: 10, Home: "/var/mail", Groups: []uint32{10}}},
		{"Digits are an id, whatever names there are", "1234", nil, User{UID: 1234, Home: "/", Groups: []uint32{0}}},
		{"Further groups, by name and by id, once each", "mail:mail", []string{"wheel", "5", "10"}, User{UID: 8, GID: 12, Home: "/var/mail", Groups: []uint32{12, 10, 5}}},
		{"The largest id", "2147483647", nil, User{UID: 2147483647, Home: "/", Groups: []uint32{0}}},
		{"No home directory is /", "homeless", nil, User{UID: 9, GID: 9, Home: "/", Groups: []uint32{9}}},
	} {
		t.Run(c.summary, func(t *testing.T) {
			got, err := LookupUser(c.spec, c.more, []byte(passwd), []byte(group))
			if err == nil && len(c.more) > 0 { // the order of further groups says nothing
				got.Groups, c.want.Groups = set(got.Groups), set(c.want.Groups)
			}
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("got  %+v (%v)\nwant %+v", got, err, c.want)
			}
		})
	}
}

// set sorts few numbers.
func set(ids []uint32) []uint32 {
	for i := range ids {
		for j := range ids[:i] {
			if ids[i] < ids[j] {
				ids[i], ids[j] = ids[j], ids[i]
			}
		}
	}
	return ids
}

func TestUserThatDoesNotExistIsRefused(t *testing.T) {
	for _, c := range []struct {
		summary, spec string
		more          []string
		want          string
	}{
		{"A name without an entry", "nobody", nil, `cannot find the user "nobody"`},
		{"A group without an entry", "0:nogroup", nil, "cannot find the user"},
		{"A further group without an entry", "0", []string{"nogroup"}, "cannot find the group"},
		// crun CVE-2026-30892: 2^32 was cut to 0, which is root.
		{"An id that would be cut to root's", "4294967296", nil, "uids and gids must be in range 0-2147483647"},
		{"An id that would be cut to 1000", "4294968296", nil, "uids and gids must be in range 0-2147483647"},
		{"An id that fits no number", "99999999999999999999999", nil, "uids and gids must be in range 0-2147483647"},
		{"A group's id that would be cut", "0:4294967296", nil, "0-2147483647, and 4294967296 is not"},
		{"The id that means no change", "4294967295", nil, "uids and gids must be in range 0-2147483647"},
		{"A negative id", "-1", nil, "cannot find the user"},
		{"A further group too large", "0", []string{"4294967296"}, "cannot find the group"},
		{"No user before the group", ":0", nil, "USER[:GROUP]"},
		{"No group after the colon", "0:", nil, "USER[:GROUP]"},
		// These were once taken for numbers, or cut.
		{"A sign before an id", "+5", nil, "cannot find the user"},
		{"A sign before a group's id", "1:+2", nil, "cannot find the user"},
		{"A sign before a further group's id", "1", []string{"+2"}, "cannot find the group"},
		{"Three parts", "1:2:3", nil, "USER[:GROUP]"},
		{"Three parts with an empty one", "1:2:", nil, "USER[:GROUP]"},
		{"Hexadecimal digits", "0x0", nil, "cannot find the user"},
		{"A space before an id", " 0", nil, "cannot find the user"},
		{"A space behind an id", "0 ", nil, "cannot find the user"},
		{"An underscore among digits", "1_0", nil, "cannot find the user"},
		{"Digits of another script", "٠", nil, "cannot find the user"},
		{"An entry whose id would be cut to root's", "wide", nil, "cannot find the user"},
		{"An entry whose id is no number, which is not 0", "word", nil, "cannot find the user"},
		{"An entry whose id is empty, which is not 0", "empty", nil, "cannot find the user"},
		{"A group whose id would be cut to root's", "0:wide", nil, "cannot find the user"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			u, err := LookupUser(c.spec, c.more, []byte(passwd), []byte(group))
			if err == nil {
				t.Fatalf("%q is %+v", c.spec, u)
			}
			refusal(t, err, c.want)
		})
	}
}

func TestLookupUserWithoutFiles(t *testing.T) {
	if u, err := LookupUser("1:2", []string{"3"}, nil, nil); err != nil || !reflect.DeepEqual(u, User{UID: 1, GID: 2, Home: "/", Groups: []uint32{2, 3}}) {
		t.Errorf("%+v, %v", u, err)
	}
	_, err := LookupUser("root", nil, nil, nil)
	refusal(t, err, "cannot find the user")
}

func FuzzLookupUser(f *testing.F) {
	f.Add("mail:wheel", passwd, group)
	f.Add("4294967296", "", "")
	f.Fuzz(func(t *testing.T, spec, passwd, group string) {
		u, err := LookupUser(spec, nil, []byte(passwd), []byte(group))
		if err == nil && (u.UID > 1<<31-1 || u.GID > 1<<31-1 || u.Home == "") {
			t.Errorf("%q is %+v", spec, u)
		}
	})
}
