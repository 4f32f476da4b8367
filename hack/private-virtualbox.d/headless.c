/*
 * Takes the place of VirtualBox's program VBoxHeadless, which runs one virtual machine, where there is no kernel driver.
 *
 * The program that it replaces asks for the driver and gives up without. VirtualBox can also do without: it interprets
 * the processor then, a few million instructions a second. All that has to change is what is asked of the support
 * library before the machine's own code is entered:
 *
 *   VBoxSVC -> VBoxHeadless (this) -> RTR3InitExe, SUPR3InitEx -> TrustedMain of VBoxHeadless.so
 *
 * The machine must be set to it as well: VBoxManage modifyvm NAME --vm-execution-engine interpreter.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>

/* Flags of SUPR3InitEx: any code may use the library; go on without the driver; let the interpreter run the machine. */
enum { UNRESTRICTED = 1 << 0, DRIVERLESS = 1 << 2, DRIVERLESS_INTERPRETED = 1 << 3 };

/* find returns a function of a library and loads the library first; null if there is none, and says so. */
static void *find(const char *library, const char *function)
{
	void *handle = dlopen(library, RTLD_NOW | RTLD_GLOBAL);
	void *address = handle ? dlsym(handle, function) : NULL;

	if (!address)
		fprintf(stderr, "VBoxHeadless: %s of %s cannot be used: %s\n", function, library, dlerror());
	return address;
}

int main(int argc, char **argv, char **envp)
{
	int (*init)(int, char ***, uint32_t);
	int (*support)(uint32_t, void **);
	int (*machine)(int, char **, char **);
	int rc;

	if (!(init = find("/usr/lib/virtualbox/VBoxRT.so", "RTR3InitExe")) ||
	    !(support = find("/usr/lib/virtualbox/VBoxRT.so", "SUPR3InitEx")))
		return 1;
	rc = init(argc, &argv, 0);
	if (rc >= 0)
		rc = support(UNRESTRICTED | DRIVERLESS | DRIVERLESS_INTERPRETED, NULL);
	if (rc < 0) {
		fprintf(stderr, "VBoxHeadless: VirtualBox does not start without its driver: status %d\n", rc);
		return 1;
	}
	/* This library expects the support library to be ready when it is loaded. */
	if (!(machine = find("/usr/lib/virtualbox/VBoxHeadless.so", "TrustedMain")))
		return 1;
	return machine(argc, argv, envp);
}
