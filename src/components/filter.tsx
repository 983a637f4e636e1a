/**
 * The filter over the runs: one line that completes names, and what is wrong with it.
 */

import { closeIcon } from '@jupyterlab/ui-components';
import * as React from 'react';

import type { FilterModel } from '../model/filter';
import { excerpt, metricOf } from '../model/query';
import type { IRefused } from '../model/runs';

/** Characters of a query that fit under it in a narrow sidebar. */
const WIDTH = 28;
const PROPOSALS = 'mlbench-filter-proposals';
const PROBLEM = 'mlbench-filter-problem';

export interface IFilterProps {
  readonly filter: FilterModel;
  /** Called with the line when it is there. */
  readonly onInput: (input: HTMLInputElement | null) => void;
}

export function Filter({ filter, onInput }: IFilterProps): JSX.Element {
  const input = React.useRef<HTMLInputElement | null>(null);
  const caret = React.useRef<number | null>(null);
  const { text, refused, proposals, active } = filter;
  const placed = React.useCallback(
    (node: HTMLInputElement | null) => {
      input.current = node;
      onInput(node);
    },
    [onInput]
  );
  React.useLayoutEffect(() => {
    if (caret.current !== null) {
      input.current?.setSelectionRange(caret.current, caret.current);
      caret.current = null;
    }
  }, [text]);
  const choose = (at: number) => {
    caret.current = filter.choose(at)?.caret ?? null;
  };
  const onKey = (event: React.KeyboardEvent<HTMLInputElement>) => {
    const isOpen = proposals.length > 0;
    const here = { text, caret: event.currentTarget.selectionStart ?? text.length };
    if (event.key === 'ArrowDown' || event.key === 'ArrowUp') {
      if (isOpen) {
        filter.move(event.key === 'ArrowDown' ? 1 : -1);
      } else {
        void filter.propose(here);
      }
    } else if (event.key === 'Tab' && isOpen && !event.shiftKey) {
      choose(Math.max(0, active));
    } else if (event.key === 'Enter') {
      if (isOpen && active >= 0) {
        choose(active);
      } else {
        filter.apply();
      }
    } else if (event.key === 'Escape' && isOpen) {
      filter.closeProposals();
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  };
  const isWrong = refused !== null && !refused.isUnfinished;
  return (
    <div className="jp-mlb-Filter" role="search">
      <div className="jp-mlb-Filter-line">
        <input
          ref={placed}
          type="text"
          role="combobox"
          className="jp-mlb-Filter-input"
          placeholder="Filter runs: metrics.rmse < 12"
          aria-label="Filter runs"
          aria-autocomplete="list"
          aria-expanded={proposals.length > 0}
          aria-controls={PROPOSALS}
          aria-activedescendant={active >= 0 ? `${PROPOSALS}-${active}` : undefined}
          aria-invalid={isWrong || undefined}
          aria-describedby={refused ? PROBLEM : undefined}
          autoComplete="off"
          autoCapitalize="off"
          spellCheck={false}
          value={text}
          onChange={event => {
            const { value, selectionStart } = event.currentTarget;
            filter.type({ text: value, caret: selectionStart ?? value.length });
          }}
          onKeyDown={onKey}
          onBlur={() => filter.closeProposals()}
        />
        {text && (
          <button
            type="button"
            className="jp-mlb-Filter-clear"
            aria-label="Clear the filter"
            title="Clear the filter"
            onClick={() => {
              filter.clear();
              input.current?.focus();
            }}
          >
            <closeIcon.react tag="span" width="14px" height="14px" />
          </button>
        )}
      </div>
      {refused && (
        <FilterProblem
          refused={refused}
          onGo={() => {
            input.current?.focus();
            input.current?.setSelectionRange(refused.place, refused.place + 1);
          }}
        />
      )}
    </div>
  );
}

interface IFilterProblemProps {
  readonly refused: IRefused;
  readonly onGo: () => void;
}

/** What cannot be read, with a mark under the character that is to blame. */
function FilterProblem({ refused, onGo }: IFilterProblemProps): JSX.Element {
  const { before, at, after } = excerpt(refused.query, refused.place, WIDTH);
  return (
    <div
      id={PROBLEM}
      className={`jp-mlb-Filter-problem${refused.isUnfinished ? ' jp-mod-quiet' : ''}`}
      role={refused.isUnfinished ? 'status' : 'alert'}
    >
      <button
        type="button"
        className="jp-mlb-Filter-place"
        aria-label={`Go to character ${refused.place + 1}`}
        title="Go there"
        onClick={onGo}
      >
        {before}
        <mark>{at || ' '}</mark>
        {after}
      </button>
      <span>{refused.message}</span>
    </div>
  );
}

export interface IProposalsProps {
  readonly proposals: ReadonlyArray<string>;
  readonly active: number;
  readonly onChoose: (at: number) => void;
}

/** What goes on where the caret is. */
export function Proposals({ proposals, active, onChoose }: IProposalsProps): JSX.Element {
  return (
    <ul id={PROPOSALS} className="jp-mlb-Proposals-list" role="listbox" aria-label="What goes on">
      {proposals.map((proposal, at) => (
        <li
          key={proposal}
          id={`${PROPOSALS}-${at}`}
          role="option"
          aria-selected={at === active}
          // The caret stays in the line.
          onMouseDown={event => event.preventDefault()}
          onClick={() => onChoose(at)}
        >
          {proposal}
        </li>
      ))}
    </ul>
  );
}

export interface ISortChoiceProps {
  readonly sort: string | null;
  readonly metrics: ReadonlyArray<string>;
  readonly onSort: (sort: string | null) => void;
  /** Called when it is about to be opened. */
  readonly onOpen: () => void;
}

const SORTS: ReadonlyArray<readonly [string, string]> = [
  ['', 'newest first'],
  ['started', 'oldest first'],
  ['-duration', 'longest first'],
  ['duration', 'shortest first'],
  ['name', 'by name']
];

/** By what the runs are sorted: columns, and the metrics in use. */
export function SortChoice({ sort, metrics, onSort, onOpen }: ISortChoiceProps): JSX.Element {
  const known = [...SORTS.map(([value]) => value), ...metrics, ...metrics.map(each => `-${each}`)];
  return (
    <select
      className="jp-mlb-Sort"
      aria-label="Sort runs"
      title="Sort runs"
      value={sort ?? ''}
      onFocus={onOpen}
      onChange={event => onSort(event.currentTarget.value || null)}
    >
      {SORTS.map(([value, label]) => (
        <option key={value} value={value}>
          {label}
        </option>
      ))}
      {metrics.length > 0 && (
        <optgroup label="metrics">
          {metrics
            .flatMap(name => [name, `-${name}`])
            .map(each => (
              <option key={each} value={each}>
                {sortWords(each)}
              </option>
            ))}
        </optgroup>
      )}
      {sort !== null && !known.includes(sort) && <option value={sort}>{sortWords(sort)}</option>}
    </select>
  );
}

function sortWords(sort: string): string {
  const name = metricOf(sort) ?? sort.replace(/^-/, '');
  return `${name}, ${sort.startsWith('-') ? 'greatest' : 'least'} first`;
}
