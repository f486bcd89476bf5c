/* Uses all that the header has. */
#include "safe_raw_sockets.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

int main(void)
{
	struct sockaddr_in at;
	int sock = socket(AF_INET, SOCK_DGRAM, 0);

	memset(&at, 0, sizeof at);
	at.sin_family = AF_INET;
	at.sin_port = htons(7000);
	/* Outside of slices the kernel knows neither. */
	if (slice_claim_port(sock, (const struct sockaddr *)&at, sizeof at) == 0 || errno != ENOPROTOOPT)
		return printf("claimed: %s\n", strerror(errno)), 1;
	if (slice_open_audit(SOCK_CLOEXEC) >= 0 || (errno != EPERM && errno != ESOCKTNOSUPPORT))
		return printf("opened: %s\n", strerror(errno)), 1;
	return 0;
}
