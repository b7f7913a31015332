// One statement of a Durable Object's SQLite: its values come as a JSON array and its rows go as JSON, so that a
// statement takes one crossing and not one for each value.

/** Runs a statement whose rows nobody wants. */
export function run(sql, query, values) {
  sql.exec(query, ...JSON.parse(values));
}

/** The rows, each an array of its values. */
export function arrays(sql, query, values) {
  return JSON.stringify(sql.exec(query, ...JSON.parse(values)).raw().toArray());
}

/** The rows, each an object with its columns' names. */
export function objects(sql, query, values) {
  return JSON.stringify(sql.exec(query, ...JSON.parse(values)).toArray());
}
