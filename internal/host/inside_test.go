package host

import "testing"

func TestTheLastGroup(t *testing.T) {
	for gidMap, want := range map[string]uint32{
		"         0          0 4294967295\n":                               1<<31 - 1,
		"         0       1000          1\n":                               0,
		"         0       1000          1\n         1     100000  65536\n": 65536,
		"         0       1000          1\n         5     100000  65536\n": 0,
		"": 0,
	} {
		if got := lastGroup(gidMap); got != want {
			t.Errorf("lastGroup(%q) = %d, not %d", gidMap, got, want)
		}
	}
}

// Outside of a user namespace the variable says nothing, whoever has set it.
func TestWhoIsOutsideIsNotInside(t *testing.T) {
	if is, _ := userNamespace(); is {
		t.Skip("this is a user namespace")
	}
	t.Setenv(InsideName, "1000:1000")
	if u, inside := Inside(); inside || u != (User{}) {
		t.Errorf("inside as %v", u)
	}
}
