package lsm

import "strings"

// ProgramProfile is the AppArmor profile that lets the program at path make user namespaces where
// kernel.apparmor_restrict_unprivileged_userns forbids them to programs without a profile (Ubuntu 23.10 and later). It allows
// all else, too; what the program executes keeps it, so that the full program and monitors have it as well.
func ProgramProfile(path string) string {
	return strings.Replace(programProfile, "PROGRAM", attachment(path), 1)
}

const programProfile = `# Lets berth make user namespaces where kernel.apparmor_restrict_unprivileged_userns forbids them to programs without a
# profile (Ubuntu 23.10 and later). Install it so:
#
#     berth system apparmor-profile | sudo tee /etc/apparmor.d/berth >/dev/null && sudo apparmor_parser -r /etc/apparmor.d/berth
abi <abi/4.0>,
include <tunables/global>

profile berth PROGRAM flags=(unconfined) {
  userns,
  include if exists <local/berth>
}
`

// attachment is a path as the policy language has it: quoted, and none of its characters a pattern (apparmor.d(5)).
func attachment(path string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range path {
		if strings.ContainsRune(`\"*?[]{}^@`, r) {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	b.WriteByte('"')
	return b.String()
}
