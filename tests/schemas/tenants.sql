-- A service with many tenants: the tenant is the first column of every key and of every foreign key, and row security
-- keeps the tenants apart. In a schema of its own, beside what is shared by all.

CREATE SCHEMA app;
CREATE SCHEMA "Billing";

CREATE TYPE app.plan AS ENUM ('free', 'team', 'enterprise');
CREATE DOMAIN app.percent AS smallint DEFAULT 0 CHECK (VALUE BETWEEN 0 AND 100);

CREATE TABLE app.tenants (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    subdomain varchar(63) NOT NULL UNIQUE CHECK (subdomain ~ '^[a-z0-9-]+$'),
    name text NOT NULL,
    plan app.plan NOT NULL DEFAULT 'free',
    owner_id integer,
    seats integer NOT NULL DEFAULT 5 CHECK (seats > 0),
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE app.users (
    tenant_id uuid NOT NULL REFERENCES app.tenants ON DELETE CASCADE,
    id integer NOT NULL,
    email text NOT NULL,
    name text,
    locale varchar(10) DEFAULT 'en-GB',
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT email_once UNIQUE (tenant_id, email)
);
-- Tenants have an owner and users have a tenant: a circle, closed at the end of a transaction.
ALTER TABLE app.tenants ADD CONSTRAINT owner FOREIGN KEY (id, owner_id) REFERENCES app.users (tenant_id, id)
    DEFERRABLE INITIALLY DEFERRED;

CREATE TABLE app.teams (
    tenant_id uuid NOT NULL REFERENCES app.tenants ON DELETE CASCADE,
    id integer NOT NULL,
    name varchar(50) NOT NULL,
    lead_id integer,
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, name),
    FOREIGN KEY (tenant_id, lead_id) REFERENCES app.users (tenant_id, id)
);

CREATE TABLE app.memberships (
    tenant_id uuid NOT NULL,
    team_id integer NOT NULL,
    user_id integer NOT NULL,
    role text NOT NULL DEFAULT 'member' CHECK (role IN ('member', 'maintainer', 'owner')),
    added_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, team_id, user_id),
    FOREIGN KEY (tenant_id, team_id) REFERENCES app.teams (tenant_id, id) ON DELETE CASCADE,
    FOREIGN KEY (tenant_id, user_id) REFERENCES app.users (tenant_id, id) ON DELETE CASCADE
);

CREATE TABLE app.projects (
    tenant_id uuid NOT NULL REFERENCES app.tenants ON DELETE CASCADE,
    id integer NOT NULL,
    team_id integer,
    title text NOT NULL,
    done app.percent,
    budget numeric(14, 2),
    span daterange,
    custom jsonb,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, team_id) REFERENCES app.teams (tenant_id, id)
);

CREATE TABLE app.tasks (
    tenant_id uuid NOT NULL,
    project_id integer NOT NULL,
    number integer NOT NULL,
    title text NOT NULL DEFAULT 'Untitled',
    assignee_id integer,
    done app.percent NOT NULL,
    due date,
    PRIMARY KEY (tenant_id, project_id, number),
    FOREIGN KEY (tenant_id, project_id) REFERENCES app.projects (tenant_id, id) ON DELETE CASCADE,
    FOREIGN KEY (tenant_id, assignee_id) REFERENCES app.users (tenant_id, id)
);
CREATE INDEX tasks_of ON app.tasks (tenant_id, assignee_id) INCLUDE (title) WHERE done < 100;

CREATE TABLE app.blockers (
    tenant_id uuid NOT NULL,
    project_id integer NOT NULL,
    number integer NOT NULL,
    by_project integer NOT NULL,
    by_number integer NOT NULL,
    PRIMARY KEY (tenant_id, project_id, number, by_project, by_number),
    FOREIGN KEY (tenant_id, project_id, number) REFERENCES app.tasks ON DELETE CASCADE,
    FOREIGN KEY (tenant_id, by_project, by_number) REFERENCES app.tasks ON DELETE CASCADE,
    CHECK ((project_id, number) <> (by_project, by_number))
);

CREATE TABLE app.api_keys (
    tenant_id uuid NOT NULL,
    prefix char(8) NOT NULL,
    user_id integer NOT NULL,
    hash bytea NOT NULL,
    scopes text[] NOT NULL DEFAULT '{read}',
    expires_at timestamptz,
    PRIMARY KEY (tenant_id, prefix),
    FOREIGN KEY (tenant_id, user_id) REFERENCES app.users (tenant_id, id) ON DELETE CASCADE
);

CREATE TABLE app.settings (
    tenant_id uuid NOT NULL REFERENCES app.tenants ON DELETE CASCADE,
    name text NOT NULL,
    value jsonb NOT NULL DEFAULT 'null',
    PRIMARY KEY (tenant_id, name)
);

CREATE TABLE "Billing"."Invoices" (
    tenant_id uuid NOT NULL REFERENCES app.tenants ON DELETE RESTRICT,
    "Year" smallint NOT NULL,
    "Number" integer NOT NULL,
    "Issued" date NOT NULL DEFAULT CURRENT_DATE,
    "Total" numeric(10, 2) NOT NULL DEFAULT 0.00,
    "Paid" boolean NOT NULL DEFAULT false,
    PRIMARY KEY (tenant_id, "Year", "Number"),
    CONSTRAINT "InvoicesYear" CHECK ("Year" BETWEEN 2000 AND 2999)
);
CREATE TABLE "Billing"."Items" (
    tenant_id uuid NOT NULL,
    "Year" smallint NOT NULL,
    "Number" integer NOT NULL,
    "Position" smallint NOT NULL,
    "Text" text NOT NULL,
    "Net" numeric(10, 2) NOT NULL,
    PRIMARY KEY (tenant_id, "Year", "Number", "Position"),
    FOREIGN KEY (tenant_id, "Year", "Number") REFERENCES "Billing"."Invoices" ON DELETE CASCADE
);

-- What all tenants share.
CREATE TABLE features (
    code text PRIMARY KEY,
    plans app.plan[] NOT NULL DEFAULT ARRAY['enterprise']::app.plan[]
);

CREATE FUNCTION app.current_tenant() RETURNS uuid LANGUAGE sql STABLE AS
    $$ SELECT nullif(current_setting('app.tenant', true), '')::uuid $$;
ALTER TABLE app.projects ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON app.projects USING (tenant_id = app.current_tenant());
ALTER TABLE app.tasks ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON app.tasks USING (tenant_id = app.current_tenant());

CREATE FUNCTION "Billing".total() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE "Billing"."Invoices" v SET "Total" = coalesce((
        SELECT sum("Net") FROM "Billing"."Items" i
        WHERE (i.tenant_id, i."Year", i."Number") = (v.tenant_id, v."Year", v."Number")), 0)
    WHERE (v.tenant_id, v."Year", v."Number")
        IN ((new.tenant_id, new."Year", new."Number"), (old.tenant_id, old."Year", old."Number"));
    RETURN NULL;
END $$;
CREATE TRIGGER total AFTER INSERT OR UPDATE OR DELETE ON "Billing"."Items"
    FOR EACH ROW EXECUTE FUNCTION "Billing".total();

INSERT INTO app.tenants (id, subdomain, name, plan) VALUES
    ('00000000-0000-4000-8000-000000000001', 'acme', 'Acme', 'enterprise'),
    ('00000000-0000-4000-8000-000000000002', 'globex', 'Globex', 'team'),
    ('00000000-0000-4000-8000-000000000003', 'initech', 'Initech', 'free');
INSERT INTO app.users (tenant_id, id, email, name)
SELECT t.id, n, 'u' || n || '@' || subdomain || '.example', initcap(subdomain) || ' user ' || n
FROM app.tenants t, generate_series(1, 4) n;
UPDATE app.tenants SET owner_id = 1;
INSERT INTO app.teams SELECT id, n, 'Team ' || n, n + 1 FROM app.tenants, generate_series(1, 2) n;
INSERT INTO app.memberships (tenant_id, team_id, user_id)
SELECT t.tenant_id, t.id, u.id FROM app.teams t JOIN app.users u USING (tenant_id) WHERE (t.id + u.id) % 2 = 0;
INSERT INTO app.projects (tenant_id, id, team_id, title, budget, span, custom)
SELECT tenant_id, 10 + id, id, 'Project ' || id, 1000.50 * id, daterange('2024-01-01', '2024-12-31', '[]'), '{"a": [1]}'
FROM app.teams;
INSERT INTO app.tasks (tenant_id, project_id, number, title, assignee_id, done, due)
SELECT tenant_id, id, n, 'Task ' || n, 1 + n % 4, 10 * n, date '2024-06-30' + n FROM app.projects, generate_series(1, 3) n;
INSERT INTO app.blockers SELECT tenant_id, project_id, 2, project_id, 1 FROM app.tasks WHERE number = 2;
INSERT INTO app.api_keys (tenant_id, prefix, user_id, hash, expires_at)
SELECT tenant_id, 'key' || lpad(id::text, 5, '0'), id, decode(md5(email), 'hex'), '2030-01-01 00:00+00' FROM app.users;
INSERT INTO app.settings SELECT id, s, to_jsonb(name) FROM app.tenants, unnest('{title,"time zone"}'::text[]) s;
INSERT INTO "Billing"."Invoices" (tenant_id, "Year", "Number") SELECT id, 2024, n FROM app.tenants, generate_series(1, 2) n;
INSERT INTO "Billing"."Items" SELECT tenant_id, "Year", "Number", n, 'Seats', 9.99 * n
FROM "Billing"."Invoices", generate_series(1, 2) n;
INSERT INTO features VALUES ('sso', DEFAULT), ('export', '{team,enterprise}'), ('basics', enum_range(NULL::app.plan));
