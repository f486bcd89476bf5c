/*
 * Answers datagrams by a UDP of its own: echo OWN-PORT HOW-MANY.
 *
 * The kernel would answer with "port unreachable", as it has no socket there; the
 * claim says that it is to leave the port alone.
 */
#include "safe_raw_sockets.h"

#include <netinet/ip.h>
#include <netinet/udp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int count, char **words)
{
	static unsigned char packet[65536];
	struct sockaddr_in here, from;
	int sock, left;

	if (count != 3)
		return fprintf(stderr, "usage: echo OWN-PORT HOW-MANY\n"), 2;
	sock = socket(AF_INET, SOCK_RAW, IPPROTO_UDP);
	if (sock < 0)
		return perror("make a raw socket"), 1;
	memset(&here, 0, sizeof here);
	here.sin_family = AF_INET;
	here.sin_port = htons((unsigned short)atoi(words[1]));
	if (slice_claim_port(sock, (const struct sockaddr *)&here, sizeof here) != 0)
		return perror("claim the port"), 1;
	printf("claimed %s\n", words[1]);
	fflush(stdout);
	for (left = atoi(words[2]); left > 0;) {
		socklen_t size = sizeof from;
		ssize_t length = recvfrom(sock, packet, sizeof packet, 0, (struct sockaddr *)&from, &size);
		size_t header = (size_t)(packet[0] & 15) * 4;
		struct udphdr udp;
		unsigned short port;

		if (length < 0)
			return perror("receive"), 1;
		/* The IP header is in front. */
		if ((size_t)length < header + sizeof udp)
			continue;
		memcpy(&udp, packet + header, sizeof udp);
		if (udp.uh_dport != here.sin_port)
			continue;
		port = udp.uh_sport;
		udp.uh_sport = udp.uh_dport;
		udp.uh_dport = port;
		/* IPv4 does without a checksum. */
		udp.uh_sum = 0;
		memcpy(packet + header, &udp, sizeof udp);
		from.sin_port = 0;
		if (sendto(sock, packet + header, (size_t)length - header, 0, (const struct sockaddr *)&from, size) < 0)
			return perror("send"), 1;
		left--;
	}
	return 0;
}
