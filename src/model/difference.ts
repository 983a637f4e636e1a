/**
 * What differs between two runs, in words, and as the page shows it.
 */

import type { IArtifactName } from '../api/client';
import type {
  IArtifactChange,
  ICodeChange,
  IDataChange,
  IDifference,
  IFanOutChange,
  IItemChange,
  IMetricChange,
  IParameterChange,
  IRunDetail,
  IStepEdge
} from '../api/schema';
import { counted, figure, plainly } from './format';

/** Cells with another code that are named in a line. */
const MOST_NAMED = 3;
/** Of what differs in an item's value at most so much is said. */
const MOST_DETAILS = 2;

/** The parts of a difference, in the order in which they matter. */
export type Part =
  'code' | 'parameters' | 'data' | 'artifacts' | 'environment' | 'metrics' | 'outcome' | 'items';

/** Each part with its title, and what is compared in it. */
export const PARTS: ReadonlyArray<readonly [Part, string, string]> = [
  ['code', 'Cells', 'cells and modules'],
  ['parameters', 'Parameters', 'parameters'],
  ['data', 'Data', 'data'],
  ['artifacts', 'Artifacts', 'artifacts that were logged'],
  ['environment', 'Environment', 'environment'],
  ['metrics', 'Metrics', 'metrics'],
  ['outcome', 'Outcome', 'outcome'],
  ['items', 'Items of fan-outs', 'items of fan-outs']
];

/** The parts in which nothing differs, as words. */
export function alike(difference: IDifference): ReadonlyArray<string> {
  return PARTS.filter(([part]) => !difference[part].length).map(([, , words]) => words);
}

/** Whether two runs are the same in all that is compared. */
export function isEmpty(difference: IDifference): boolean {
  return PARTS.every(([part]) => !difference[part].length);
}

/**
 * The few things that are likeliest to be the cause of another outcome, each in a few words.
 *
 * What came out (metrics, outcome, items) is none, nor are data that differ since the code of their step does, or since
 * something above them does: these follow from it.
 *
 * @param failed - the step that failed: its code comes first.
 * @param edges - which step waits for which.
 */
export function telling(
  difference: IDifference,
  failed: string | null = null,
  edges: ReadonlyArray<IStepEdge> = [],
  most = 3
): ReadonlyArray<string> {
  const { code, parameters, data, environment } = difference;
  const edited = new Set(code.map(({ name }) => name));
  const differing = new Set([...edited, ...data.map(({ step }) => step)]);
  const follows = (step: string) =>
    edited.has(step) || above(step, edges).some(each => differing.has(each));
  const causes = [
    ...codeWords(code, failed),
    ...parameters.map(each => `${each.name} ${pair(...parameterSides(each))}`),
    ...data.filter(({ change, step }) => change === 'changed' && !follows(step)).map(dataWords),
    ...environment.map(
      each => `${each.part.replace(/^package /, '')} ${pair(each.before, each.after)}`
    )
  ];
  const rest = causes.length - most;
  return rest > 0 ? [...causes.slice(0, most), `${rest.toLocaleString('en-US')} more`] : causes;
}

/** The artifact that a step of one of the two runs bound, and not an equal one that another run made before. */
export function boundIn(
  { executions }: Pick<IRunDetail, 'executions'>,
  digest: string,
  step: string,
  name: string
): IArtifactName {
  const maker = executions.find(
    each =>
      each.step === step &&
      each.binds.some(
        ({ artifact, ...bound }) => bound.name === name && artifact?.digest === digest
      )
  );
  return maker ? { digest, execution: maker.id, name } : { digest };
}

/** The artifact that a step of one of the two runs logged, or that a plain cell of it did. */
export function loggedIn(
  { run }: Pick<IRunDetail, 'run'>,
  digest: string,
  execution: string | null,
  name: string
): IArtifactName {
  return execution === null ? { digest, run: run.id, name } : { digest, execution, name };
}

/** A line of code of one side: its number, and whether the other side has it. */
export interface ICodeLine {
  readonly text: string;
  readonly isChanged: boolean;
}

/** Lines that stand beside each other; a head says from where on. */
export interface ISideRow {
  readonly head?: string;
  readonly before?: ICodeLine;
  readonly after?: ICodeLine;
}

/** Put the lines of a unified difference beside each other: what was removed beside what was added. */
export function sideBySide(diff: ReadonlyArray<string>): ReadonlyArray<ISideRow> {
  const rows: ISideRow[] = [];
  let removed: string[] = [];
  let added: string[] = [];
  const flush = () => {
    for (let at = 0; at < Math.max(removed.length, added.length); at += 1) {
      rows.push({ before: changed(removed[at]), after: changed(added[at]) });
    }
    removed = [];
    added = [];
  };
  for (const line of diff) {
    if (line.startsWith('-')) {
      if (added.length) {
        flush();
      }
      removed.push(line.slice(1));
    } else if (line.startsWith('+')) {
      added.push(line.slice(1));
    } else {
      flush();
      const same = { text: line.slice(1), isChanged: false };
      rows.push(line.startsWith('@@') ? { head: hunkWords(line) } : { before: same, after: same });
    }
  }
  flush();
  return rows;
}

/** Say where a part of a unified difference stands: `@@ -1,2 +1,3 @@` is `line 1`. */
export function hunkWords(head: string): string {
  const line = /^@@ -\d+(?:,\d+)? \+(\d+)/.exec(head)?.[1];
  return line === undefined ? head : `line ${line}`;
}

/** A value and what became of it: `100 → 200`. */
export function pair(before: unknown, after: unknown): string {
  if (before === null || before === undefined) {
    return `${said(after)}, not there before`;
  }
  return after === null || after === undefined
    ? `${said(before)} before, now gone`
    : `${said(before)} → ${said(after)}`;
}

/** A parameter as it was and as it is, exactly; null where there was none, which a parameter of `None` is not. */
export function parameterSides(change: IParameterChange): [string | null, string | null] {
  return [
    change.change === 'added' ? null : exactly(change.before),
    change.change === 'removed' ? null : exactly(change.after)
  ];
}

/** A value as it is; a text stands in quotation marks where it could be taken for something else. */
export function exactly(value: unknown): string {
  return typeof value === 'string' && !isLiteral(value) ? value : JSON.stringify(value);
}

/** A value in few words. */
export function said(value: unknown): string {
  if (typeof value === 'string') {
    return value;
  }
  return typeof value === 'number' ? figure(value) : JSON.stringify(value);
}

/** How much a metric has changed, with its sign. */
export function metricDifference({ difference }: IMetricChange): string {
  return difference === null ? '' : `${difference > 0 ? '+' : ''}${figure(difference)}`;
}

/** How many items of a fan-out differ. */
export function fanOutWords({ differing, added, removed, cut }: IFanOutChange): string {
  const counts = [
    differing ? `${counted(differing, 'item differs', 'items differ')}` : '',
    added ? `${added.toLocaleString('en-US')} new` : '',
    removed ? `${removed.toLocaleString('en-US')} gone` : ''
  ];
  return counts.filter(Boolean).join(', ') + (cut ? ', of those that were compared' : '');
}

/** What differs of an item. */
export function itemWords({ before, after, data, artifacts, metrics }: IItemChange): string {
  const words = [
    before === after ? '' : pair(before, after),
    ...[...data, ...artifacts].map(inItem),
    ...metrics.map(each => `${each.name} ${pair(each.before, each.after)}`)
  ];
  return words.filter(Boolean).join(' · ');
}

function inItem({ name, change, details }: IDataChange | IArtifactChange): string {
  const how = change === 'changed' ? 'differs' : `was ${change}`;
  const said = plainly(details.slice(0, MOST_DETAILS).join(', '), 6);
  return `${name} ${how}${said && `: ${said}`}`;
}

/** The lines of code that were added and removed: `+3 −1`. */
export function lineCounts({ diff }: ICodeChange): string {
  const count = (sign: string) => diff.filter(line => line.startsWith(sign)).length;
  const [added, removed] = [count('+'), count('-')];
  return [added ? `+${added}` : '', removed ? `−${removed}` : ''].filter(Boolean).join(' ');
}

/** The steps that a step waits for, and those that these wait for. */
function above(step: string, edges: ReadonlyArray<IStepEdge>): ReadonlyArray<string> {
  const found = new Set<string>();
  const todo = [step];
  for (let one = todo.pop(); one !== undefined; one = todo.pop()) {
    for (const { parent } of edges.filter(({ child }) => child === one)) {
      if (!found.has(parent)) {
        found.add(parent);
        todo.push(parent);
      }
    }
  }
  return [...found];
}

function changed(text: string | undefined): ICodeLine | undefined {
  return text === undefined ? undefined : { text, isChanged: true };
}

/** What of the code is another; a cell that only moved, or that is text, changes no result. */
function codeWords(
  changes: ReadonlyArray<ICodeChange>,
  failed: string | null
): ReadonlyArray<string> {
  const code = changes.filter(({ change, type }) => change !== 'moved' && type === 'code');
  const edited = code.filter(({ change }) => change === 'changed').map(({ name }) => name);
  edited.sort((one, other) => Number(other === failed) - Number(one === failed));
  const named = edited.slice(0, MOST_NAMED);
  const rest = edited.length - named.length;
  const names = rest > 0 ? [...named, `${rest} more`] : named;
  const last = names.pop();
  return [
    ...(last ? [`code of ${names.length ? `${names.join(', ')} and ${last}` : last}`] : []),
    ...code.filter(({ change }) => change !== 'changed').map(each => `${each.name} ${each.change}`)
  ];
}

function isLiteral(text: string): boolean {
  if (!text.trim()) {
    return true;
  }
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

function dataWords({ step, name, details }: IDataChange): string {
  const [detail] = details;
  const known = detail && !detail.startsWith('the content') ? ` (${detail})` : '';
  return `${name} of ${step}${known}`;
}
