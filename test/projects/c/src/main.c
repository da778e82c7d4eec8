#include "count.h"

int main(void)
{
	printf("%ld\n", count(stdin));
	return 0;
}
