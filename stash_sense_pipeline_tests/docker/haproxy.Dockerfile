# A stand-in for the official HAProxy image where that cannot be pulled: the same path of the configuration, Debian's program.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
USER haproxy
STOPSIGNAL SIGUSR1
CMD ["/usr/sbin/haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]
