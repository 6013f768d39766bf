// One process is one device on the published `electric-sql` client, driven over its pipes.
//
// In: one JSON object a line, {"id", "call", "args"}. Out: {"id", "result"} or {"id", "error": {name, code, message}} for
// each, in the order they finish, and {"event", ...} for what the client reports by itself. Nothing else may reach standard
// output, so the client's log is sent to standard error.
//
// JSON knows neither 64-bit integers nor bytes nor NaN, and the tests compare exactly. So values travel tagged by how SQLite
// stores them: {"i": "123"} integer, {"f": "7ff8000000000000"} the eight bytes of a double, {"x": "00ff"} bytes; text and
// null as they are. The typed API has also {"d": milliseconds} for a Date, {"j": any} for JSON, and plain booleans.

for (const level of ['log', 'info', 'debug', 'trace']) console[level] = console.error.bind(console)

const { createInterface } = await import('node:readline')
const { default: Database } = await import('better-sqlite3')
const { default: decompress } = await import('decompress')
const { z } = await import('zod')
const { insecureAuthToken } = await import('electric-sql/auth')
const { DbSchema, Relation } = await import('electric-sql/client/model')
const { makeMigration, parseMetadata, sqliteBuilder } = await import('electric-sql/migrators/builder')
const { electrify } = await import('electric-sql/node')

const BASIC_TYPES = new Set(
  ('BOOL INT INT2 INT4 INT8 INTEGER REAL FLOAT4 FLOAT8 TEXT VARCHAR CHAR UUID JSON JSONB BYTEA ' +
    'TIMESTAMP TIMESTAMPTZ DATE TIME TIMETZ').split(' '),
)

let skewMs = 0
const TrueDate = Date
globalThis.Date = class extends TrueDate {
  constructor(...args) {
    super(...(args.length ? args : [TrueDate.now() + skewMs]))
  }
  static now() {
    return TrueDate.now() + skewMs
  }
}

const say = (line) => process.stdout.write(JSON.stringify(line) + '\n')
const described = (error) => ({
  name: error?.name ?? typeof error,
  code: error?.code ?? error?.errorType ?? null,
  message: String(error?.message ?? error),
})

// The client throws from timers and emitters; a device outlives that, and the test hears of it.
process.on('uncaughtException', (error) => say({ event: 'unhandled', ...described(error) }))
process.on('unhandledRejection', (error) => say({ event: 'unhandled', ...described(error) }))

function encoded(value) {
  if (typeof value === 'bigint') return { i: value.toString() }
  if (typeof value === 'number') {
    const bytes = Buffer.alloc(8)
    bytes.writeDoubleBE(value)
    return { f: bytes.toString('hex') }
  }
  if (value instanceof Uint8Array) return { x: Buffer.from(value).toString('hex') }
  if (value instanceof Date) return { d: value.getTime() }
  if (typeof value === 'object' && value !== null) return { j: '__is_electric_json_null__' in value ? null : value }
  return value
}

const encodedRow = (row) => Object.fromEntries(Object.entries(row).map(([column, value]) => [column, encoded(value)]))

/** A tagged value for a column of `type`; without a type, for a parameter of raw SQL. */
function decoded(value, type) {
  if (value === null || typeof value !== 'object') return value
  if ('i' in value) return type === undefined || type === 'INT8' ? BigInt(value.i) : Number(value.i)
  if ('f' in value) return Buffer.from(value.f, 'hex').readDoubleBE()
  if ('x' in value) return Buffer.from(value.x, 'hex')
  if ('d' in value) return new Date(value.d)
  return value.j ?? { __is_electric_json_null__: true }
}

const decodedRow = (table, row) =>
  Object.fromEntries(Object.entries(row).map(([column, value]) => [column, decoded(value, table.columns[column])]))

/** The server's migrations, opened as the client's own generator opens them. */
async function fetchMigrations(url) {
  const response = await fetch(new URL('/api/migrations?dialect=sqlite', url))
  if (response.status === 204) return []
  if (!response.ok) throw new Error(`${response.url} answered ${response.status}: ${await response.text()}`)
  const files = await decompress(Buffer.from(await response.arrayBuffer()))
  return files
    .filter((file) => file.path.endsWith('/metadata.json'))
    .sort((a, b) => (a.path < b.path ? -1 : 1))
    .map((file) => parseMetadata(JSON.parse(file.data.toString())))
}

/** What the generator would have read from Postgres: {table: {columns: {name: TYPE}, references: [{column, table, to}]}}. */
function tablesOf(migrations) {
  const tables = {}
  for (const { table } of migrations.flatMap((migration) => migration.ops))
    if (table !== undefined)
      tables[table.name] = {
        columns: Object.fromEntries(table.columns.map((column) => [column.name, column.pgType.name])),
        references: table.fks.map((fk) => ({ column: fk.fkCols[0], table: fk.pkTable, to: fk.pkCols[0] })),
      }
  return tables
}

/** A schema by hand: every relation from the foreign keys, every validator permissive. */
function schemaOf(tables, migrations) {
  const any = z.any().optional()
  const anyObject = z.object({}).passthrough().optional()
  const input = z.object({ data: any, where: any, select: anyObject, include: anyObject, skipDuplicates: any })
  const find = z.object({ where: any, select: any, include: any, orderBy: any, take: any, skip: any, distinct: any })
  const relations = Object.fromEntries(Object.keys(tables).map((name) => [name, []]))
  for (const [child, { references }] of Object.entries(tables))
    for (const { column, table: parent, to } of references) {
      const name = `${child}_${column}_to_${parent}`
      relations[child].push(new Relation(parent, column, to, parent, name, 'one'))
      relations[parent]?.push(new Relation(child, '', '', child, name, 'many'))
    }
  const schemas = Object.entries(tables).map(([name, { columns }]) => [
    name,
    {
      fields: new Map(Object.entries(columns)),
      relations: relations[name],
      modelSchema: z.any(),
      createSchema: input,
      createManySchema: z.any(),
      findUniqueSchema: find,
      findSchema: find,
      updateSchema: input,
      updateManySchema: z.any(),
      upsertSchema: z.any(),
      deleteSchema: z.any(),
      deleteManySchema: z.any(),
    },
  ])
  const bundled = migrations.map((migration) => makeMigration(migration, sqliteBuilder))
  return new DbSchema(Object.fromEntries(schemas), bundled, [])
}

function normalised(tables) {
  const known = (type) => (BASIC_TYPES.has(type.toUpperCase()) ? type.toUpperCase() : 'TEXT')
  return Object.fromEntries(
    Object.entries(tables).map(([name, { columns, references = [] }]) => [
      name,
      { columns: Object.fromEntries(Object.entries(columns).map(([c, type]) => [c, known(type)])), references },
    ]),
  )
}

let connection, electric, tables

const locked = (work) => electric.adapter.txMutex.runExclusive(work)
const selected = (sql, args = []) =>
  locked(() => connection.prepare(sql).safeIntegers(true).all(...args.map((arg) => decoded(arg))).map(encodedRow))

/** The client asks for the time by `new Date()` alone. */
function setClockAhead(ms) {
  const RealDate = Date
  globalThis.Date = class extends RealDate {
    constructor(...given) {
      super(...(given.length === 0 ? [RealDate.now() + ms] : given))
    }
  }
}

function reportEvents() {
  const { notifier } = electric
  notifier.subscribeToConnectivityStateChanges(({ connectivityState: { status, reason } }) =>
    say({ event: 'connectivity', status, reason: reason === undefined ? null : described(reason) }),
  )
  notifier.subscribeToShapeSubscriptionSyncStatusChanges(({ key, status }) => say({ event: 'shape', key, status }))
  notifier.subscribeToDataChanges(({ origin, changes }) =>
    say({ event: 'changed', origin, tables: changes.map((change) => change.qualifiedTablename.tablename) }),
  )
}

const calls = {
  /** `schema` describes the tables when the migrations are not bundled but awaited from the stream. */
  async open({ path, url, clientId, schema, migrations, aheadMs, config }) {
    if (aheadMs) setClockAhead(aheadMs)
    connection = new Database(path)
    connection.pragma('journal_mode = WAL')
    const bundled = migrations === 'server' ? await fetchMigrations(url) : []
    tables = normalised(schema ?? tablesOf(bundled))
    const auth = clientId ? { clientId } : {}
    electric = await electrify(connection, schemaOf(tables, bundled), { url, auth, ...config })
    reportEvents()
    return { clientId: electric.satellite._authState.clientId, tables, versions: bundled.map(({ version }) => version) }
  },

  async connect({ token, claims }) {
    await electric.connect(claims ? insecureAuthToken(claims) : (token ?? undefined))
  },

  disconnect: () => electric.disconnect(),

  /** Answers when the server has accepted; the event `synced` or `unsynced` with the same `ticket` follows. */
  async sync({ table, options, ticket }) {
    const { key, synced } = await electric.db[table].sync(options)
    synced.then(
      () => say({ event: 'synced', key, ticket }),
      (error) => say({ event: 'unsynced', key, ticket, ...described(error) }),
    )
    return key
  },

  unsubscribe: ({ keys }) => electric.sync.unsubscribe(keys),

  syncStatus: ({ key }) => electric.sync.syncStatus(key) ?? null,

  async create({ table, data }) {
    await electric.db[table].create({ data: decodedRow(tables[table], data) })
  },

  async createMany({ table, data }) {
    await electric.db[table].createMany({ data: data.map((row) => decodedRow(tables[table], row)) })
  },

  async update({ table, where, data }) {
    const typed = tables[table]
    await electric.db[table].update({ where: decodedRow(typed, where), data: decodedRow(typed, data) })
  },

  async delete({ table, where }) {
    await electric.db[table].delete({ where: decodedRow(tables[table], where) })
  },

  /** The typed API's own reading of the rows. */
  async findMany({ table, where }) {
    const rows = await electric.db[table].findMany(where ? { where: decodedRow(tables[table], where) } : {})
    return rows.map(encodedRow)
  },

  /** Raw statements in one local transaction. */
  async execute({ statements }) {
    const typed = statements.map(([sql, ...args]) => ({ sql, args: args.map((arg) => decoded(arg)) }))
    await electric.adapter.runInTransaction(...typed)
    electric.potentiallyChanged()
  },

  query: ({ sql, args }) => selected(sql, args),

  dump: ({ table }) => selected(`SELECT * FROM "${table}"`),

  async pending() {
    const [{ waiting }] = await selected('SELECT count(*) AS waiting FROM _electric_oplog')
    return Number(waiting.i)
  },

  /** From now on the clock of this process is ahead by `ms`, or behind. */
  skew({ ms }) {
    skewMs = ms
  },

  /** The position the device would resume from, base64, or null. */
  lsn: () => electric.satellite._getMeta('lsn'),

  async close() {
    await electric?.close()
    connection?.close()
  },
}

const lines = createInterface({ input: process.stdin, crlfDelay: Infinity })
lines.on('line', async (line) => {
  const { id, call, args } = JSON.parse(line)
  try {
    say({ id, result: (await calls[call](args)) ?? null })
  } catch (error) {
    say({ id, error: described(error) })
  }
})
// The client's timers would keep the process alive for ever: it ends with its input.
lines.on('close', () => process.exit(0))
say({ event: 'ready' })
