/**
 * Where an artifact comes from and what was made of it, as the lines of a tree.
 */

import type { ILineage, ILineageExecution, ILineageValue } from '../api/schema';
import { plainly } from './format';

/** A line of the tree: a value, or an execution that made or was given one. */
export type LineageRow =
  | { readonly kind: 'value'; readonly level: number; readonly value: ILineageValue }
  | {
      readonly kind: 'execution';
      readonly level: number;
      readonly execution: ILineageExecution;
      readonly verb: 'made by' | 'read by' | 'collected by';
      /** Whether it is told above, with all that follows from it. */
      readonly isAgain: boolean;
    }
  | { readonly kind: 'modules'; readonly level: number; readonly names: ReadonlyArray<string> }
  | { readonly kind: 'unknown'; readonly level: number; readonly id: string };

/** All that led to a value: who made it, what this was given, who made that … */
export function rowsAbove(lineage: ILineage, value: ILineageValue): ReadonlyArray<LineageRow> {
  const known = new Map(lineage.executions.map(each => [each.id, each]));
  const told = new Set<string>();
  const rows: LineageRow[] = [];
  const todo: { value: ILineageValue; level: number }[] = [{ value, level: -1 }];
  for (let next = todo.pop(); next; next = todo.pop()) {
    const { value: one, level } = next;
    if (level >= 0) {
      rows.push({ kind: 'value', level, value: one });
    }
    if (one.execution === null) {
      continue;
    }
    const execution = known.get(one.execution);
    if (!execution) {
      rows.push({ kind: 'unknown', level: level + 1, id: one.execution });
      continue;
    }
    const isAgain = told.has(execution.id);
    rows.push({ kind: 'execution', level: level + 1, execution, verb: 'made by', isAgain });
    if (!isAgain) {
      told.add(execution.id);
      const given = execution.reads.filter(each => each.how !== 'item');
      const modules = given.filter(each => each.type === 'module');
      if (modules.length) {
        rows.push({ kind: 'modules', level: level + 2, names: modules.map(({ name }) => name) });
      }
      const reads = given.filter(each => !modules.includes(each));
      todo.push(...[...reads].reverse().map(each => ({ value: each, level: level + 2 })));
    }
  }
  return rows;
}

/** All that came of a value: who was given it, what these made of it … */
export function rowsBelow(lineage: ILineage, value: ILineageValue): ReadonlyArray<LineageRow> {
  const below = new Set(lineage.below);
  const readers = new Map<string, { execution: ILineageExecution; how: ILineageValue['how'] }[]>();
  for (const execution of lineage.executions.filter(each => below.has(each.id))) {
    for (const read of execution.reads.filter(each => each.execution !== null)) {
      const key = keyOf(read);
      readers.set(key, [...(readers.get(key) ?? []), { execution, how: read.how }]);
    }
  }
  const told = new Set<string>();
  const rows: LineageRow[] = [];
  const todo: LineageRow[] = [{ kind: 'value', level: -1, value }];
  for (let row = todo.pop(); row; row = todo.pop()) {
    if (row.level >= 0) {
      rows.push(row);
    }
    if (row.kind === 'execution' && !row.isAgain) {
      const { execution, verb, level } = row;
      if (told.has(execution.id)) {
        rows[rows.length - 1] = { ...row, isAgain: true };
        continue;
      }
      told.add(execution.id);
      const name = row.level >= 0 && verb === 'collected by' ? parentName(rows, level) : null;
      const made = execution.binds.filter(each => name === null || each.name === name);
      todo.push(
        ...[...made]
          .reverse()
          .map(each => ({ kind: 'value' as const, level: level + 1, value: each }))
      );
    } else if (row.kind === 'value' && row.value.execution !== null) {
      const { level } = row;
      const found = readers.get(keyOf(row.value)) ?? [];
      todo.push(
        ...[...found].reverse().map(({ execution, how }) => ({
          kind: 'execution' as const,
          level: level + 1,
          execution,
          verb: how === 'item' ? ('collected by' as const) : ('read by' as const),
          isAgain: false
        }))
      );
    }
  }
  return rows;

  /** The name of the value that a line stands under: a list is collected from the items' values of its own name. */
  function parentName(before: ReadonlyArray<LineageRow>, level: number): string {
    for (let at = before.length - 2; at >= 0; at -= 1) {
      const parent = before[at];
      if (parent.kind === 'value' && parent.level === level - 1) {
        return parent.value.name;
      }
    }
    return value.name;
  }
}

/** What an execution is called: its step, with the values of its item. */
export function executionName({ step, item, label }: ILineageExecution): string {
  const values = Object.values(label);
  return item === null ? step : `${step}[${values.length ? plainly(values.join(', ')) : item}]`;
}

function keyOf({ execution, name }: ILineageValue): string {
  return `${execution} ${name}`;
}
