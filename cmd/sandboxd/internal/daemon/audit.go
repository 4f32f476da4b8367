package daemon

import (
	"sandboxd.dev/sandboxd/apiserver"
	"sandboxd.dev/sandboxd/audit"
	"sandboxd.dev/sandboxd/config"
)

// openAudit opens the audit log; nil when there is to be none.
func openAudit(o Options) (*audit.Log, error) {
	c := o.Config.Audit
	if c.File == config.AuditNone {
		return nil, nil
	}
	log := o.Logger.WithName("audit")
	return audit.Open(audit.Options{
		Path: c.File, MaxSize: c.MaxSize.Value(), MaxFiles: c.MaxFiles, Sync: c.Sync,
		Failed: func(err error, line []byte) {
			log.Error(err, "A line of the audit log was not written: until it is, only deletions are done", "line", string(line))
		},
	})
}

func auditOf(log *audit.Log, c config.Audit) apiserver.Audit {
	if log == nil { // a nil Log in an Auditor would not be nil
		return apiserver.Audit{}
	}
	return apiserver.Audit{Log: log, Commands: c.Commands}
}
