package libvirtconn

import (
	"errors"

	"github.com/digitalocean/go-libvirt"

	"sandboxd.dev/sandboxd/providers"
)

// Translate gives an error of go-libvirt a kind, by its code and never by its
// words. What is not an answer of the daemon (a lost connection, a broken
// reply) is ErrUnavailable, as is an answer whose code says nothing: the
// caller tries again.
func Translate(object string, err error) error {
	if err == nil || providers.KindOf(err) != nil {
		return err
	}
	if errors.Is(err, libvirt.ErrUnsupported) {
		return providers.Errorf(providers.ErrUnsupported, object, "libvirt is too old for this call: %w", err)
	}
	var e libvirt.Error
	if !errors.As(err, &e) {
		return providers.Errorf(providers.ErrUnavailable, object, "the connection to libvirt was lost during the call: %w", err)
	}
	return providers.Errorf(kindOfCode(libvirt.ErrorNumber(e.Code)), object, "libvirt: %w", err)
}

// Code returns libvirt's code of an error, or ErrOk when it has none.
func Code(err error) libvirt.ErrorNumber {
	var e libvirt.Error
	if errors.As(err, &e) {
		return libvirt.ErrorNumber(e.Code)
	}
	return libvirt.ErrOk
}

// kindOfCode maps libvirt's codes to kinds.
func kindOfCode(code libvirt.ErrorNumber) error {
	switch code {
	case libvirt.ErrNoDomain, libvirt.ErrNoNetwork, libvirt.ErrNoDomainMetadata,
		libvirt.ErrNoNetworkPort, libvirt.ErrNoInterface, libvirt.ErrNoNwfilter:
		return providers.ErrNotFound
	case libvirt.ErrDomExist, libvirt.ErrNetworkExist:
		return providers.ErrAlreadyExists
	case libvirt.ErrOperationInvalid, libvirt.ErrOperationTimeout, libvirt.ErrOperationAborted,
		libvirt.ErrResourceBusy, libvirt.ErrBlockCopyActive:
		return providers.ErrBusy
	case libvirt.ErrXMLError, libvirt.ErrXMLDetail, libvirt.ErrXMLInvalidSchema,
		libvirt.ErrInvalidArg, libvirt.ErrInvalidDomain, libvirt.ErrInvalidMac,
		libvirt.ErrUnknownHost, libvirt.ErrParseFailed, libvirt.ErrConfSyntax, libvirt.ErrSexprSerial:
		return providers.ErrInvalid
	case libvirt.ErrNoSupport, libvirt.ErrConfigUnsupported, libvirt.ErrArgumentUnsupported,
		libvirt.ErrOperationUnsupported, libvirt.ErrCPUIncompatible, libvirt.ErrNoKernel:
		return providers.ErrUnsupported
	case libvirt.ErrNoMemory:
		return providers.ErrCapacity
	default:
		return providers.ErrUnavailable
	}
}
