# A stand-in for the official PostgreSQL image where that cannot be pulled: the same variables, Debian's server.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
RUN ln -s /usr/lib/postgresql/*/bin/* /usr/local/bin/ && install -d -o postgres /var/lib/postgresql/data
COPY postgres-entrypoint.sh /
USER postgres
STOPSIGNAL SIGINT
ENTRYPOINT ["bash", "/postgres-entrypoint.sh"]
