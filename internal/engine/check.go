package engine

import (
	"berth/internal/errdef"
	"berth/internal/host"
	"berth/internal/runtime/lifecycle"
	"berth/internal/runtime/monitor"
	"berth/internal/runtime/needs"
	"berth/internal/runtime/userns"
	"berth/internal/settings"
)

// Check looks for all that containers depend on here.
func Check(v settings.Values) []needs.Finding {
	in := needs.Input{Survey: host.Look(v.DataRoot, v.RunRoot)}
	if !in.Root() {
		m := userns.Ours()
		in.Ranges, in.WhyNone = len(m.UID)-1, m.Why
		if v.RootlessUplink == monitor.UplinkPasta {
			_, err := monitor.Pasta()
			in.Pasta, in.NoPasta = true, err != nil
		}
	}
	return needs.Findings(in)
}

// Explained adds to an error what is missing here, if that is why, and which command would bring it.
func Explained(v settings.Values, err error) error {
	failed, ok := lifecycle.FailedCall(err)
	if !ok || !failed.Telling() {
		return err
	}
	return explained(v, err, failed)
}

func explained(v settings.Values, err error, failed needs.Failed) error {
	cause, found := needs.Cause(failed, Check(v))
	if !found {
		return err
	}
	return errdef.Hint(err, "%s", cause.Advice())
}
