from django_hosts import host, patterns

host_patterns = patterns(
    "",
    host(r"api", "tests.neighbours.projects.hosts_api", name="api"),
    host(r"www", "tests.neighbours.projects.hosts", name="www"),
)
