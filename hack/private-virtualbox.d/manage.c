/*
 * Runs VirtualBox's program of the same name as this one inside the root directory that was furnished for it, in the
 * caller's working directory. Signals and exit codes need no passing on: it becomes that program.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#ifndef ROOT
#error "ROOT is to be defined as the root directory"
#endif

int main(int argc, char **argv)
{
	const char *slash = argc ? strrchr(argv[0], '/') : NULL;
	char directory[PATH_MAX], program[PATH_MAX];

	snprintf(program, sizeof program, "/usr/lib/virtualbox/%s", slash ? slash + 1 : argc ? argv[0] : "");
	if (!getcwd(directory, sizeof directory))
		strcpy(directory, "/");
	if (chroot(ROOT)) {
		fprintf(stderr, "private-virtualbox: %s cannot be entered, which only root may do inside hack/private-virtualbox: %s\n", ROOT, strerror(errno));
		return 125;
	}
	if (chdir(directory) && chdir("/"))
		return 125;
	execv(program, argv);
	fprintf(stderr, "private-virtualbox: %s cannot be run: %s\n", program, strerror(errno));
	return 125;
}
