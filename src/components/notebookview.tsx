/**
 * A notebook as a run had it: to be read, not to be run.
 */

import type { PartialJSONObject } from '@lumino/coreutils';
import * as React from 'react';

import type { INotebookView } from '../api/schema';

export interface INotebookViewProps {
  readonly view: INotebookView;
  readonly outputs: (key: string, outputs: ReadonlyArray<PartialJSONObject>) => JSX.Element;
  readonly markdown: (key: string, text: string) => JSX.Element;
  readonly code: (key: string, text: string) => JSX.Element;
}

export function NotebookRead({ view, outputs, markdown, code }: INotebookViewProps): JSX.Element {
  const cells = (view.notebook.cells ?? []) as ReadonlyArray<PartialJSONObject>;
  return (
    <div className="jp-mlb-NotebookRead">
      <p className="jp-mlb-NotebookRead-head">
        {view.executed
          ? 'The notebook as this run executed it. It cannot be edited here.'
          : 'The notebook as it was when this run began. It cannot be edited here.'}
      </p>
      {cells.map((cell, at) => {
        const source = textOf(cell.source);
        if (cell.cell_type === 'markdown') {
          return (
            <div className="jp-mlb-NotebookRead-markdown" key={at}>
              {markdown(`markdown-${at}`, source)}
            </div>
          );
        }
        const shown = (cell.outputs ?? []) as ReadonlyArray<PartialJSONObject>;
        const number = typeof cell.execution_count === 'number' ? cell.execution_count : ' ';
        return (
          <div className="jp-mlb-NotebookRead-cell" key={at}>
            <div className="jp-mlb-NotebookRead-prompt">
              {cell.cell_type === 'code' ? `[${number}]:` : ''}
            </div>
            <div className="jp-mlb-NotebookRead-source">{code(`code-${at}`, source)}</div>
            {shown.length > 0 && (
              <div className="jp-mlb-NotebookRead-outputs">{outputs(`outputs-${at}`, shown)}</div>
            )}
          </div>
        );
      })}
    </div>
  );
}

function textOf(source: unknown): string {
  return Array.isArray(source) ? source.join('') : typeof source === 'string' ? source : '';
}
