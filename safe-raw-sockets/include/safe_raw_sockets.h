/*
 * What stock calls cannot say about raw sockets in a slice. Everything is in
 * this file; docs/raw.md explains it.
 */
#ifndef SAFE_RAW_SOCKETS_H
#define SAFE_RAW_SOCKETS_H

#include <netinet/in.h>
#include <sys/socket.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A level and an option of setsockopt(2) that are not the kernel's. */
#define SOL_SLICE 0x534c
#define SLICE_RAW_PORT 1

/* A protocol of AF_PACKET that is not the kernel's. */
#define SLICE_AUDIT 0x534c

/*
 * Claims a port for a raw socket of TCP or UDP: it is the slice's until the
 * socket is closed, and the kernel sends neither resets nor "port unreachable"
 * for it. The address is one of the node's, or unspecified.
 *
 * 0, or -1 with errno. EINVAL: the address is short, of another family than the
 * socket or not the node's, the port is 0, or the socket has one already. EACCES:
 * the port is below 1024 and not reserved for the slice, the node's, or one that
 * the kernel gives to others. EADDRINUSE: another owner's, or another raw socket
 * has it. ENOPROTOOPT: no raw socket of TCP or UDP; not in a slice.
 */
static inline int slice_claim_port(int sock, const struct sockaddr *at, socklen_t length)
{
	return setsockopt(sock, SOL_SLICE, SLICE_RAW_PORT, at, length);
}

/*
 * Opens the stream of the packets of all slices, with their owners, as pcapng:
 * what read(2) gives can be written to a file as it is. `flags`: 0, or
 * SOCK_CLOEXEC, SOCK_NONBLOCK or both.
 *
 * A descriptor, or -1 with errno. EPERM: the slice has not the grant `audit`, or
 * the process not CAP_NET_RAW. EBUSY: the slice has such a stream already, or as
 * many read as can.
 */
static inline int slice_open_audit(int flags)
{
	return socket(AF_PACKET, SOCK_STREAM | flags, SLICE_AUDIT);
}

#ifdef __cplusplus
}
#endif

#endif
