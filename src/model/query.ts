/**
 * A query over runs while it is typed: which names or values go on at the caret, and where it cannot be read.
 */

/** What can stand in the place of what is being typed: `start` to `end` of the text is replaced. */
export interface IAsked {
  readonly start: number;
  readonly end: number;
  /** What is written of it so far. */
  readonly prefix: string;
  /** All values that are possible there; null where a name stands, which the server knows. */
  readonly values: ReadonlyArray<string> | null;
}

/** A text with a caret in it. */
export interface ITyped {
  readonly text: string;
  readonly caret: number;
}

const TOKEN = new RegExp(
  [
    /(?<space>\s+)/u,
    /(?<name>[\p{L}_][\p{L}\p{N}_-]*(?:\.(?:[\p{L}\p{N}_-]+|`[^`]*`?|"[^"]*"?)?)*)/u,
    /(?<text>'(?:[^'\\]|\\[\s\S]|'')*'?|"(?:[^"\\]|\\[\s\S])*"?)/u,
    /(?<operator>[<>=!]+)/u,
    /(?<other>[\s\S])/u
  ]
    .map(each => each.source)
    .join('|'),
  'gu'
);

/** The columns whose values are few, and these. */
const VALUES: { readonly [column: string]: ReadonlyArray<string> } = {
  state: ['succeeded', 'failed', 'running', 'cancelled', 'queued', 'reused', 'skipped'],
  kind: ['interactive', 'papermill', 'job'],
  reason: [
    'error',
    'memory',
    'timeout',
    'user',
    'worker-lost',
    'kernel-lost',
    'service-lost',
    'superseded'
  ]
};

interface IToken {
  readonly kind: string;
  readonly text: string;
  readonly start: number;
}

/** Say what goes on at the caret; null where neither a name nor a known value is expected. */
export function askedAt({ text, caret }: ITyped): IAsked | null {
  const tokens = split(text.slice(0, caret));
  const last = tokens[tokens.length - 1];
  const isApart = !last || /^[\s(),<>=!]/.test(last.text);
  const typed = isApart ? null : last;
  const before = (typed ? tokens.slice(0, -1) : tokens).filter(each => each.kind !== 'space');
  const start = typed?.start ?? caret;
  const values = valuesAfter(before);
  if (values) {
    const begun = typed?.text ?? '';
    if (begun && !/^['"]?[\w-]*$/.test(begun)) {
      return null;
    }
    const prefix = begun.replace(/^['"]/, '');
    const rest = /^[\w-]*['"]?/.exec(text.slice(caret))?.[0].length ?? 0;
    return { start, end: caret + rest, prefix, values };
  }
  if (!isNameExpected(before) || (typed && typed.kind !== 'name')) {
    return null;
  }
  const rest = /^[\p{L}\p{N}_.-]*/u.exec(text.slice(caret))?.[0].length ?? 0;
  return { start, end: caret + rest, prefix: typed?.text ?? '', values: null };
}

/** The values that begin as it is written, in quotation marks. */
export function fittingValues({ prefix, values }: IAsked): ReadonlyArray<string> {
  return (values ?? []).filter(each => each.startsWith(prefix)).map(each => `'${each}'`);
}

/** Put a choice in its place, with a space after what is complete. */
export function completed(text: string, asked: IAsked, choice: string): ITyped {
  const rest = text.slice(asked.end);
  const gap = choice.endsWith('.') || /^[\s)]/.test(rest) || asked.values ? '' : ' ';
  const head = text.slice(0, asked.start) + choice + gap;
  return { text: head + rest, caret: head.length };
}

/** Whether a query can be read as far as it goes, and only its end is missing. */
export function isUnfinished(query: string, place: number): boolean {
  return place >= query.trimEnd().length;
}

/** What stands around a place of a query, with the character at it. */
export interface IExcerpt {
  readonly before: string;
  readonly at: string;
  readonly after: string;
}

/** Cut a query to so many characters around one of them; its end is a place too. */
export function excerpt(query: string, place: number, width: number): IExcerpt {
  const shown = query.length - width > 0 ? Math.max(0, place - Math.floor(width / 2)) : 0;
  const start = Math.min(shown, Math.max(0, query.length - width));
  const end = Math.min(query.length, start + width);
  return {
    before: (start ? '…' : '') + query.slice(start, place),
    at: query.slice(place, place + 1),
    after: query.slice(place + 1, end) + (end < query.length ? '…' : '')
  };
}

/** The metric that runs are sorted by, as its name is in the records; null where it is something else. */
export function metricOf(sort: string | null): string | null {
  const written = /^-?metrics\.([\s\S]+)$/.exec(sort ?? '')?.[1];
  if (written === undefined) {
    return null;
  }
  if (written.startsWith('`')) {
    return written.slice(1, -1);
  }
  return written.startsWith('"') ? written.slice(1, -1).replace(/\\(["\\])/g, '$1') : written;
}

function split(text: string): ReadonlyArray<IToken> {
  return [...text.matchAll(TOKEN)].map(match => ({
    kind: Object.entries(match.groups ?? {}).find(([, found]) => found !== undefined)?.[0] ?? '',
    text: match[0],
    start: match.index ?? 0
  }));
}

function isNameExpected(before: ReadonlyArray<IToken>): boolean {
  const last = before[before.length - 1];
  return (
    !last ||
    (last.text === '(' && !/^in$/i.test(before[before.length - 2]?.text ?? '')) ||
    (last.kind === 'name' && /^(?:and|or|not)$/i.test(last.text) && !isNotIn(before))
  );
}

/** Whether the last word is the `not` of `not in`, after a name. */
function isNotIn(before: ReadonlyArray<IToken>): boolean {
  const [name, not] = before.slice(-2);
  return (
    not !== undefined &&
    /^not$/i.test(not.text) &&
    name.kind === 'name' &&
    !/^(?:and|or|not)$/i.test(name.text)
  );
}

/** The values that may follow: after `state =`, or in the parentheses of `state in (`. */
function valuesAfter(before: ReadonlyArray<IToken>): ReadonlyArray<string> | null {
  let at = before.length - 1;
  if (before[at]?.kind === 'operator') {
    return /^[=!]=?$/.test(before[at].text) ? (VALUES[before[at - 1]?.text] ?? null) : null;
  }
  if (before[at]?.text !== '(' && before[at]?.text !== ',') {
    return null;
  }
  while (at >= 0 && before[at].text !== '(') {
    at -= 1;
  }
  if (!/^in$/i.test(before[at - 1]?.text ?? '')) {
    return null;
  }
  const column = /^not$/i.test(before[at - 2]?.text ?? '') ? before[at - 3] : before[at - 2];
  return VALUES[column?.text ?? ''] ?? null;
}
