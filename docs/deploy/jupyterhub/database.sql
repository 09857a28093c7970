-- The role of all servers and their database. Run this once, as a superuser:
--     psql -v ON_ERROR_STOP=1 -f database.sql
-- Then give the role a password: \password nbsessions
CREATE ROLE nbsessions LOGIN CONNECTION LIMIT 80;
CREATE DATABASE nbsessions OWNER nbsessions TEMPLATE template0 ENCODING 'UTF8';
REVOKE ALL ON DATABASE nbsessions FROM PUBLIC;
